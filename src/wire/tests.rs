use bytes::Bytes;

use super::{
    api_versions::{ApiVersionsRequest, ApiVersionsResponse},
    consumer_protocol::{ConsumerProtocolSubscription, decode_versioned, encode_versioned},
    create_topics::{CreatableTopicResult, CreateTopicsResponse},
    fetch::{FetchResponse, FetchableTopicResponse, PartitionData},
    metadata::{MetadataRequest, MetadataRequestTopic},
    produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    *,
};

fn bytes_of<M: Message>(message: &M, version: i16) -> Bytes {
    let mut e = Encoder::new();
    message.encode(&mut e, version);
    e.to_bytes()
}

fn fetch_response(records: &Bytes, partitions: i32) -> FetchResponse {
    let partition = |partition_index| PartitionData { partition_index, records: records.clone(), ..Default::default() };
    let partitions = (0..partitions).map(partition).collect();
    let topic = FetchableTopicResponse { topic: "t".into(), partitions, ..Default::default() };
    FetchResponse { responses: vec![topic], ..Default::default() }
}

#[test]
fn large_records_go_out_by_reference() {
    let records = Bytes::from(vec![7; 1 << 20]);
    let segments = encode_response(&fetch_response(&records, 3), ApiKey::Fetch, 12, 5);
    let shared = segments.iter().filter(|s| s.as_ptr() == records.as_ptr() && s.len() == records.len());
    assert_eq!(shared.count(), 3);
    assert!(segments.iter().filter(|s| s.len() < records.len()).map(Bytes::len).sum::<usize>() < 300);

    let frame = Bytes::from(segments.concat());
    assert_eq!(frame.len() - 4, u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize);
    let mut d = Decoder::new(frame.slice(4..));
    assert_eq!(decode_response_header(&mut d, ApiKey::Fetch, 12), Ok(5));
    assert_eq!(FetchResponse::decode(&mut d, 12), Ok(fetch_response(&records, 3)));
}

#[test]
fn large_fields_keep_their_place_inside_tagged_fields() {
    let large = Bytes::from(vec![7; 2000]);
    let mut e = Encoder::new();
    e.put(b"before");
    let mut field = e.fork();
    field.put(b"in");
    field.put_bytes(&large);
    e.tags(vec![(1, field)]);
    e.put(b"after");
    let len = e.len();
    let expected = [&b"before\x01\x01\xd2\x0fin"[..], &large, b"after"].concat();
    assert_eq!((e.to_bytes(), len), (Bytes::from(expected.clone()), expected.len()));
}

#[test]
fn decoded_records_are_slices_of_the_frame() {
    let records = Some(Bytes::from_static(b"a batch"));
    let partition_data = vec![PartitionProduceData { index: 1, records }];
    let topic = TopicProduceData { name: "t".into(), partition_data, ..Default::default() };
    let frame = bytes_of(&ProduceRequest { topic_data: vec![topic], ..Default::default() }, 9);
    let read = ProduceRequest::decode(&mut Decoder::new(frame.clone()), 9).unwrap();
    let records = read.topic_data[0].partition_data[0].records.as_ref().unwrap();
    assert!(frame.as_ptr_range().contains(&records.as_ptr()));
}

#[test]
fn no_records_are_empty_and_not_null() {
    let frame = bytes_of(&fetch_response(&Bytes::new(), 1), 4);
    assert_eq!(frame[frame.len() - 4..], [0, 0, 0, 0]);
    // Other brokers do send null.
    let frame = [&frame[..frame.len() - 4], &[0xff; 4]].concat();
    let read = FetchResponse::decode(&mut Decoder::new(frame.into()), 4).unwrap();
    assert!(read.responses[0].partitions[0].records.is_empty());
}

/// librdkafka asks for all topics with a 4-byte count where a varint belongs, which leaves three bytes over.
#[test]
fn bytes_after_the_last_field_are_left() {
    let mut d = Decoder::new(Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]));
    let read = MetadataRequest::decode(&mut d, 12).unwrap();
    assert_eq!((read.topics, d.remaining()), (None, 3));
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    let frame = [&b"\x02a\x02b"[..], &[2, 9, 3, 1, 2, 3, 0x80, 0x01, 0]].concat();
    let read = ApiVersionsRequest::decode(&mut Decoder::new(frame.into()), 3).unwrap();
    assert_eq!(read.client_software_version, "b");
}

#[test]
fn an_api_versions_request_from_the_future_has_a_header() {
    let frame = [&[0, 18, 0, 99, 0, 0, 0, 5, 0, 1][..], b"c", &[0]].concat();
    let mut d = Decoder::new(frame.into());
    let header = RequestHeader::decode(&mut d).unwrap();
    assert_eq!((header.api_key, header.api_version, header.correlation_id), (18, 99, 5));
    assert_eq!(ApiVersionsRequest::decode(&mut d, 99), Err(Error::Version(99)));

    let frame = encode_response(&ApiVersionsResponse::default(), ApiKey::ApiVersions, 3, 5).concat();
    // No tagged fields after the correlation id: code, empty list, throttle time, tags.
    assert_eq!(frame, [0, 0, 0, 12, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn short_headers_are_errors() {
    for n in 0..10 {
        let frame = Bytes::from(vec![0; n]);
        assert_eq!(RequestHeader::decode(&mut Decoder::new(frame)), Err(Error::Truncated), "{n}");
    }
}

#[test]
fn fields_follow_the_version() {
    let topic = MetadataRequestTopic { topic_id: [9; 16], name: None };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let read = |version| MetadataRequest::decode(&mut Decoder::new(bytes_of(&request, version)), version).unwrap();
    assert_eq!(read(10).topics.unwrap()[0], MetadataRequestTopic { topic_id: [9; 16], name: None });
    assert_eq!(read(9).topics.unwrap()[0], MetadataRequestTopic { topic_id: [0; 16], name: Some(String::new()) });
    assert!(read(9).allow_auto_topic_creation);
    assert_eq!(bytes_of(&MetadataRequest::default(), 0)[..], [0, 0, 0, 0], "null is not a list in version 0");
    assert_eq!(bytes_of(&MetadataRequest::default(), 1)[..], [0xff; 4]);
}

#[test]
fn text_too_long_for_an_old_length_is_cut_at_a_character() {
    let error_message = Some("ä".repeat(20_000));
    let topic = CreatableTopicResult { error_message, ..Default::default() };
    let response = CreateTopicsResponse { topics: vec![topic], ..Default::default() };
    let read = |version| CreateTopicsResponse::decode(&mut Decoder::new(bytes_of(&response, version)), version);
    assert_eq!(read(4).unwrap().topics[0].error_message.as_ref().unwrap().len(), 32_766);
    assert_eq!(read(7).unwrap(), response);
}

#[test]
fn a_subscription_from_the_future_is_read_as_the_newest() {
    let subscription = ConsumerProtocolSubscription {
        topics: vec!["t".into()],
        user_data: None,
        rack_id: Some("r".into()),
        generation_id: 4,
        ..Default::default()
    };
    let mut bytes = encode_versioned(&subscription, 3).to_vec();
    assert_eq!(decode_versioned(bytes.clone().into()), Ok(subscription.clone()));
    bytes[1] = 7;
    bytes.extend(b"something new");
    assert_eq!(decode_versioned(bytes.into()), Ok(subscription.clone()));

    let old = decode_versioned::<ConsumerProtocolSubscription>(encode_versioned(&subscription, 0)).unwrap();
    assert_eq!((old.topics, old.generation_id, old.rack_id), (subscription.topics, -1, None));
    for hostile in [&b""[..], b"\0", b"\xff\xff\0\0\0\0", b"\0\x01\x7f\xff\xff\xff"] {
        assert!(decode_versioned::<ConsumerProtocolSubscription>(hostile.into()).is_err());
    }
}

#[test]
fn the_table_is_whole() {
    for api in APIS {
        assert_eq!(ApiKey::try_from(api.key as i16), Ok(api.key));
        assert_eq!(api.key.api(), api);
        assert!(api.supports(api.min) && api.supports(api.max) && !api.supports(api.max + 1));
        let early = if api.key == ApiKey::Produce { 0 } else { api.min };
        assert_eq!(api.advertised_min, early);
    }
    assert_eq!(ApiKey::try_from(4), Err(4));
    assert_eq!(ApiKey::SaslHandshake.api().flexible_from, i16::MAX);
}
