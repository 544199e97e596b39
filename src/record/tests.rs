use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType},
};
use proptest::prelude::*;

use super::*;

/// One record as a test holds it.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn plains() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..90));
    let headers = prop::collection::vec(("[a-c]{0,3}", bytes()), 0..4);
    let timestamp_ms = prop_oneof![0i64..2_000_000_000_000, Just(-1), (i64::MIN / 4)..(i64::MAX / 4)];
    prop::collection::vec(
        (timestamp_ms, bytes(), bytes(), headers).prop_map(|(timestamp_ms, key, value, headers)| Plain {
            timestamp_ms,
            key,
            value,
            headers,
        }),
        1..40,
    )
}

fn built(builder: &mut Builder, records: &[Plain], codec: Codec) -> Bytes {
    for r in records {
        let headers: Vec<_> = r.headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        builder.push(r.timestamp_ms, r.key.as_deref(), r.value.as_deref(), &headers).unwrap();
    }
    let estimate = builder.size_bytes();
    let batch = builder.finish(codec, codec.default_level());
    assert!(batch.len() <= estimate);
    batch
}

fn plain(record: &RecordView<'_>) -> Plain {
    let headers = record.headers();
    Plain {
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.map(|h| (String::from_utf8_lossy(h.key).into_owned(), h.value.map(<[u8]>::to_vec))).collect(),
    }
}

fn read(batch: &[u8]) -> Result<Vec<(Offset, Plain)>, BatchError> {
    let mut unpacker = Unpacker::new(1 << 20);
    unpacker.records(batch)?.map(|r| r.map(|r| (r.offset, plain(&r)))).collect()
}

fn some_records() -> Vec<Plain> {
    (0..50)
        .map(|i| Plain {
            timestamp_ms: 1_700_000_000_000 + i * 7,
            key: (i % 3 != 0).then(|| format!("key-{i}").into_bytes()),
            value: (i % 5 != 0).then(|| format!("{{\"n\":{i},\"text\":\"the same as ever\"}}").into_bytes()),
            headers: vec![("a".into(), None), ("a".into(), Some(vec![1, 2])), (String::new(), Some(vec![]))],
        })
        .collect()
}

proptest! {
    #[test]
    fn a_batch_gives_back_its_records(records in plains(), codec in 0usize..5, base in 0i64..1 << 60) {
        let mut builder = Builder::new();
        let producer = Producer { id: 4000, epoch: 2, sequence: 77 };
        builder.set_producer(producer);
        for _again in 0..2 {
            let mut bytes = BytesMut::from(&built(&mut builder, &records, Codec::ALL[codec])[..]);
            batch::stamp(&mut bytes, base, 5);
            let header = batch::check(&bytes).unwrap();
            prop_assert_eq!((header.base_offset, header.leader_epoch, header.producer), (base, 5, producer));
            prop_assert_eq!(header.max_timestamp_ms, records.iter().map(|r| r.timestamp_ms).max().unwrap());
            prop_assert_eq!(header.last_offset(), base + records.len() as i64 - 1);
            prop_assert!(header.is_dense() && header.is_idempotent() && header.must_rewrite().is_none());
            let expected: Vec<_> = records.iter().enumerate().map(|(i, r)| (base + i as i64, r.clone())).collect();
            prop_assert_eq!(read(&bytes).unwrap(), expected);
        }
    }

    #[test]
    fn the_oracle_reads_what_is_built(records in plains(), codec in 0usize..5) {
        let bytes = built(&mut Builder::new(), &records, Codec::ALL[codec]);
        let unpack = |packed: &mut Bytes, codec: Compression| {
            let codec = Codec::ALL[codec as i8 as usize];
            let mut unpacker = Unpacker::new(1 << 20);
            Ok(Bytes::copy_from_slice(unpacker.unpack(codec, packed).unwrap()))
        };
        let set = RecordBatchDecoder::decode_with_custom_compression(&mut bytes.clone(), Some(unpack)).unwrap();
        prop_assert_eq!(set.records.len(), records.len());
        for (i, (theirs, ours)) in set.records.iter().zip(&records).enumerate() {
            prop_assert_eq!(theirs.offset, i as i64);
            prop_assert_eq!(theirs.timestamp, ours.timestamp_ms);
            prop_assert_eq!(theirs.key.as_deref(), ours.key.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), ours.value.as_deref());
            // The oracle keeps the last header of a name.
            for (key, _) in &ours.headers {
                let last = ours.headers.iter().rfind(|(k, _)| k == key).and_then(|(_, v)| v.as_deref());
                let (_, theirs) = theirs.headers.iter().find(|(k, _)| k.as_str() == key).unwrap();
                prop_assert_eq!(theirs.as_deref(), last);
            }
        }
    }

    #[test]
    fn what_the_oracle_builds_is_read(records in plains()) {
        let theirs: Vec<Record> = records.iter().enumerate().map(|(i, r)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: 9,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: 100 + i as i64,
            sequence: 3 + i as i32,
            timestamp: r.timestamp_ms,
            key: r.key.clone().map(Bytes::from),
            value: r.value.clone().map(Bytes::from),
            headers: r.headers.iter().map(|(k, v)| (StrBytes::from(k.clone()), v.clone().map(Bytes::from)))
                .collect::<IndexMap<_, _>>(),
        }).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, &theirs, &options).unwrap();
        // It opens a new batch where the timestamps' distance or the offsets ask for one.
        let mut read_back = Vec::new();
        for item in batch::batches(&bytes) {
            let (header, batch) = item.unwrap();
            prop_assert_eq!(batch::check(batch).unwrap(), header);
            prop_assert_eq!((header.producer.id, header.producer.epoch), (9, 1));
            read_back.extend(read(batch).unwrap());
        }
        prop_assert_eq!(read_back.len(), records.len());
        for ((offset, ours), theirs) in read_back.iter().zip(&theirs) {
            prop_assert_eq!(*offset, theirs.offset);
            prop_assert_eq!(ours.timestamp_ms, theirs.timestamp);
            prop_assert_eq!(ours.key.as_deref(), theirs.key.as_deref());
            prop_assert_eq!(ours.value.as_deref(), theirs.value.as_deref());
            prop_assert_eq!(ours.headers.len(), theirs.headers.len());
        }
    }

    #[test]
    fn mutated_bytes_never_panic(
        codec in 0usize..5,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = built(&mut Builder::new(), &some_records(), Codec::ALL[codec]).to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        // With the damage signed, so that the CRC does not hide the parser.
        if bytes.len() > batch::HEADER_BYTES {
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        let _any = batch::check(&bytes).is_ok();
        let _any = read(&bytes).is_ok();
        for item in batch::batches(&bytes).flatten() {
            let _any = read(item.1).is_ok();
        }
        let mut coalescer = Coalescer::new(1 << 20);
        let _any = coalescer.push(&bytes, 3).is_ok();
        let _bytes = coalescer.finish(Producer::NONE, Codec::Zstd, 3);
        batch::stamp(&mut bytes, 1, 2);
        batch::stamp_append_time(&mut bytes, 3);
        let _any = batch::restamp(&mut bytes, Producer::NONE).is_ok();
    }

    #[test]
    fn one_changed_bit_is_noticed(bit in 21 * 8usize..2000) {
        let mut bytes = built(&mut Builder::new(), &some_records(), Codec::None).to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(batch::check(&bytes).is_err());
        let before = bytes.clone();
        prop_assert!(batch::restamp(&mut bytes, Producer::NONE).is_err());
        prop_assert_eq!(bytes, before);
    }

    #[test]
    fn coalesced_batches_hold_the_same_records(
        sets in prop::collection::vec((plains(), 0usize..5), 1..6),
        target in 0usize..5,
        skip in 0i64..10,
    ) {
        let mut coalescer = Coalescer::new(1 << 20);
        let (mut base, mut expected) = (1000i64, Vec::new());
        let from = base + skip;
        for (records, codec) in &sets {
            let mut bytes = built(&mut Builder::new(), records, Codec::ALL[*codec]).to_vec();
            batch::stamp(&mut bytes, base, 0);
            coalescer.push(&bytes, from).unwrap();
            expected.extend(records.iter().enumerate().filter(|(i, _)| base + *i as i64 >= from).map(|(_, r)| r.clone()));
            base += records.len() as i64;
        }
        prop_assert_eq!(coalescer.len(), expected.len());
        prop_assert_eq!(coalescer.span(), (!expected.is_empty()).then_some((from, base - 1)));
        let producer = Producer { id: 7, epoch: 0, sequence: i32::MAX };
        let bytes = coalescer.finish(producer, Codec::ALL[target], 1);
        prop_assert_eq!(coalescer.span(), None);
        if expected.is_empty() {
            prop_assert!(bytes.is_empty());
        } else {
            let header = batch::check(&bytes).unwrap();
            prop_assert_eq!((header.base_offset, header.leader_epoch, header.producer), (0, -1, producer));
            prop_assert!(header.must_rewrite().is_none());
            prop_assert_eq!(read(&bytes).unwrap().into_iter().map(|(_, r)| r).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn restamp_changes_identity_only() {
    let mut builder = Builder::new();
    builder.set_producer(Producer { id: 1, epoch: 1, sequence: 1 });
    let original = built(&mut builder, &some_records(), Codec::Lz4);
    let mut bytes = original.to_vec();
    batch::stamp(&mut bytes, 900, 4);
    // A committed transaction's batch is sent on without its transaction.
    bytes[22] |= 1 << 4;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(batch::check(&bytes).unwrap().is_transactional());
    let ours = Producer { id: 12, epoch: 3, sequence: 45 };
    let header = batch::restamp(&mut bytes, ours).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch, header.producer), (0, -1, ours));
    assert_eq!(batch::check(&bytes).unwrap(), header);
    assert_eq!(&bytes[21..43], &original[21..43]);
    assert_eq!(&bytes[57..], &original[57..]);
}

#[test]
fn what_a_broker_would_refuse_is_rewritten() {
    let mut bytes = built(&mut Builder::new(), &some_records(), Codec::Zstd).to_vec();
    batch::stamp(&mut bytes, 40, 0);
    batch::stamp_append_time(&mut bytes, 123_456);
    assert!(batch::check(&bytes).unwrap().has_log_append_time());
    let before = bytes.clone();
    assert_eq!(batch::restamp(&mut bytes, Producer::NONE), Err(BatchError::Rewrite("LogAppendTime")));
    assert_eq!(bytes, before);
    let mut coalescer = Coalescer::new(1 << 20);
    coalescer.push(&bytes, 0).unwrap();
    let rewritten = coalescer.finish(Producer::NONE, Codec::Zstd, 3);
    let header = batch::check(&rewritten).unwrap();
    assert!(!header.has_log_append_time());
    assert!(read(&rewritten).unwrap().iter().all(|(_, r)| r.timestamp_ms == 123_456));

    // A hole, as compaction leaves it: the last of three records gone, or the one in the middle.
    let records = &some_records()[..2];
    let mut holed = built(&mut Builder::new(), records, Codec::None).to_vec();
    holed[23..27].copy_from_slice(&4i32.to_be_bytes());
    let crc = crc32c::crc32c(&holed[21..]);
    holed[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(batch::restamp(&mut holed, Producer::NONE), Err(BatchError::Rewrite("holes between offsets")));
    coalescer.push(&holed, 0).unwrap();
    assert_eq!(coalescer.span(), Some((0, 4)));
    let rewritten = coalescer.finish(Producer::NONE, Codec::None, 0);
    assert!(batch::check(&rewritten).unwrap().is_dense());

    let mut control = built(&mut Builder::new(), records, Codec::None).to_vec();
    control[22] |= 1 << 5;
    let crc = crc32c::crc32c(&control[21..]);
    control[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(batch::restamp(&mut control, Producer::NONE), Err(BatchError::Rewrite("control batch")));
    assert_eq!(coalescer.push(&control, 0), Err(BatchError::Control));
}

#[test]
fn views_are_passed_on_with_their_headers() {
    let source = built(&mut Builder::new(), &some_records(), Codec::None);
    let mut unpacker = Unpacker::new(1 << 20);
    let mut builder = Builder::new();
    for record in unpacker.records(&source).unwrap() {
        let record = record.unwrap();
        builder.push_view(&record).unwrap();
        builder.push_with_value(&record, Some(b"other")).unwrap();
        builder.push_with_headers(&record, &[("why", Some(b"because")), ("a", None)]).unwrap();
    }
    let out = read(&builder.finish(Codec::Zstd, 3)).unwrap();
    for (i, original) in some_records().into_iter().enumerate() {
        let mapped = Plain { value: Some(b"other".to_vec()), ..original.clone() };
        let mut more = original.clone();
        more.headers.extend([("why".into(), Some(b"because".to_vec())), ("a".into(), None)]);
        assert_eq!(out[3 * i].1, original);
        assert_eq!(out[3 * i + 1].1, mapped);
        assert_eq!(out[3 * i + 2].1, more);
    }
}

#[test]
fn structure_is_refused_by_name() {
    let good = built(&mut Builder::new(), &some_records(), Codec::None);
    assert_eq!(batch::check(&good[..60]), Err(BatchError::Short(60)));
    assert!(matches!(batch::check(&good[..good.len() - 1]), Err(BatchError::Length { .. })));
    assert!(matches!(batch::check(&[&good[..], b"x"].concat()), Err(BatchError::Length { .. })));
    let with = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        batch::check(&bytes)
    };
    assert_eq!(with(16, 1), Err(BatchError::Magic(1)));
    assert_eq!(with(8, 0x80), Err(BatchError::Field("length")));
    assert_eq!(with(22, 5), Err(BatchError::Codec(5)));
    assert_eq!(with(23, 0xff), Err(BatchError::Field("lastOffsetDelta")));
    assert_eq!(with(57, 0xff), Err(BatchError::Field("recordsCount")));
    assert!(matches!(with(100, good[100] ^ 1), Err(BatchError::Crc { .. })));
}

#[test]
fn a_run_of_batches_ends_with_its_last_whole_one() {
    let one = built(&mut Builder::new(), &some_records(), Codec::None);
    let run = [&one[..], &one[..], &one[..70]].concat();
    let items: Vec<_> = batch::batches(&run).collect();
    assert_eq!(items.len(), 3);
    assert!(items[..2].iter().all(|i| i.as_ref().is_ok_and(|(_, b)| *b == one)));
    assert!(items[2].is_err());
}

#[test]
fn records_that_do_not_add_up_are_refused_once() {
    let records = &some_records()[..3];
    let good = built(&mut Builder::new(), records, Codec::None).to_vec();
    // More records claimed than there are, fewer, and an offset that repeats.
    for (at, value) in [(60, 4), (60, 2)] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(matches!(read(&bytes), Err(BatchError::Record(_))), "{at} {value}");
    }
    let mut bytes = good.clone();
    bytes[26] = 1;
    assert!(matches!(read(&bytes), Err(BatchError::Record("offsets do not rise within the batch's"))));
    let mut unpacker = Unpacker::new(1 << 20);
    let mut bad = good;
    bad[60] = 9;
    let mut iterator = unpacker.records(&bad).unwrap();
    assert_eq!(iterator.by_ref().filter(Result::is_err).count(), 1);
    assert!(iterator.next().is_none());
}

#[test]
fn an_empty_builder_makes_no_batch() {
    let mut builder = Builder::new();
    assert!(builder.finish(Codec::Zstd, 3).is_empty());
    assert_eq!((builder.len(), builder.size_bytes()), (0, batch::HEADER_BYTES));
}
