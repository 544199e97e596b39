//! The wire schema against an independent codec, and against hostile bytes.
//!
//! Bodies are made by a third hand: `Schema` reads the field lists as text and writes random bodies of them, so neither
//! codec tests itself. Of each body both codecs must make the same bytes again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "a counting allocator is the only way to see what a decoder allocates")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
    fmt::Debug,
};

use brooklet::wire::{self, Api, ApiKey, Decoder, Encoder, ErrorCode, Message, Request};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages as oracle;

/// Versions that are spoken here but unknown to the oracle, with why.
const NOT_IN_ORACLE: &[(ApiKey, i16)] = &[];

/// What the test needs of one API.
struct Case {
    api: Api,
    schema: Schema,
    request: Side,
    response: Side,
}

struct Side {
    name: &'static str,
    decode: fn(Bytes, i16) -> bool,
    recode: Recode,
    oracle: Oracle,
    /// How the default prints, ours and the oracle's.
    defaults: (String, String),
}

fn decode<M: Message>(body: Bytes, version: i16) -> bool {
    M::decode(&mut Decoder::new(body), version).is_ok()
}

/// Decodes a body of one version and encodes it in another; also how it prints, when both are the same.
type Recode = fn(Bytes, i16, i16) -> Result<(Bytes, String), wire::Error>;

fn recode<M: Message + Debug + PartialEq>(body: Bytes, from: i16, to: i16) -> Result<(Bytes, String), wire::Error> {
    let message = M::decode(&mut Decoder::new(body), from)?;
    let mut e = Encoder::new();
    message.encode(&mut e, to);
    let expected = e.len();
    let bytes = e.to_bytes();
    assert_eq!(bytes.len(), expected);
    if from == to {
        assert_eq!(M::decode(&mut Decoder::new(bytes.clone()), to)?, message, "what is written is what is read");
    }
    Ok((bytes, if from == to { format!("{message:?}") } else { String::new() }))
}

/// The same by the oracle, in one version; what it leaves of the body remains.
type Oracle = fn(ApiKey, &mut Bytes, i16) -> Result<(Bytes, String), String>;

macro_rules! oracle {
    ($kind:ident) => {
        |key, body, version| {
            let key = oracle::ApiKey::try_from(key as i16).map_err(|()| "no such key".to_owned())?;
            let message = oracle::$kind::decode(key, body, version).map_err(|e| e.to_string())?;
            let mut out = BytesMut::new();
            message.encode(&mut out, version).map_err(|e| e.to_string())?;
            Ok((out.freeze(), format!("{message:?}")))
        }
    };
}

macro_rules! cases {
    ($($module:ident $request:ident $response:ident,)*) => {
        fn cases() -> Vec<Case> {
            vec![$(Case {
                api: <wire::$module::$request as Request>::API,
                schema: Schema::parse(include_str!(concat!("../src/wire/", stringify!($module), ".rs"))),
                request: Side {
                    name: stringify!($request),
                    decode: decode::<wire::$module::$request>,
                    recode: recode::<wire::$module::$request>,
                    oracle: oracle!(RequestKind),
                    defaults: (
                        format!("{:?}", wire::$module::$request::default()),
                        format!("{:?}", oracle::$request::default()),
                    ),
                },
                response: Side {
                    name: stringify!($response),
                    decode: decode::<<wire::$module::$request as Request>::Response>,
                    recode: recode::<<wire::$module::$request as Request>::Response>,
                    oracle: oracle!(ResponseKind),
                    defaults: (
                        format!("{:?}", wire::$module::$response::default()),
                        format!("{:?}", oracle::$response::default()),
                    ),
                },
            },)*]
        }
    };
}

cases! {
    produce ProduceRequest ProduceResponse,
    fetch FetchRequest FetchResponse,
    list_offsets ListOffsetsRequest ListOffsetsResponse,
    metadata MetadataRequest MetadataResponse,
    offset_commit OffsetCommitRequest OffsetCommitResponse,
    offset_fetch OffsetFetchRequest OffsetFetchResponse,
    find_coordinator FindCoordinatorRequest FindCoordinatorResponse,
    join_group JoinGroupRequest JoinGroupResponse,
    heartbeat HeartbeatRequest HeartbeatResponse,
    leave_group LeaveGroupRequest LeaveGroupResponse,
    sync_group SyncGroupRequest SyncGroupResponse,
    describe_groups DescribeGroupsRequest DescribeGroupsResponse,
    list_groups ListGroupsRequest ListGroupsResponse,
    sasl_handshake SaslHandshakeRequest SaslHandshakeResponse,
    api_versions ApiVersionsRequest ApiVersionsResponse,
    create_topics CreateTopicsRequest CreateTopicsResponse,
    delete_topics DeleteTopicsRequest DeleteTopicsResponse,
    delete_records DeleteRecordsRequest DeleteRecordsResponse,
    init_producer_id InitProducerIdRequest InitProducerIdResponse,
    offset_for_leader_epoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
    add_partitions_to_txn AddPartitionsToTxnRequest AddPartitionsToTxnResponse,
    add_offsets_to_txn AddOffsetsToTxnRequest AddOffsetsToTxnResponse,
    end_txn EndTxnRequest EndTxnResponse,
    write_txn_markers WriteTxnMarkersRequest WriteTxnMarkersResponse,
    txn_offset_commit TxnOffsetCommitRequest TxnOffsetCommitResponse,
    describe_acls DescribeAclsRequest DescribeAclsResponse,
    create_acls CreateAclsRequest CreateAclsResponse,
    delete_acls DeleteAclsRequest DeleteAclsResponse,
    describe_configs DescribeConfigsRequest DescribeConfigsResponse,
    alter_configs AlterConfigsRequest AlterConfigsResponse,
    alter_replica_log_dirs AlterReplicaLogDirsRequest AlterReplicaLogDirsResponse,
    describe_log_dirs DescribeLogDirsRequest DescribeLogDirsResponse,
    sasl_authenticate SaslAuthenticateRequest SaslAuthenticateResponse,
    create_partitions CreatePartitionsRequest CreatePartitionsResponse,
    delete_groups DeleteGroupsRequest DeleteGroupsResponse,
    elect_leaders ElectLeadersRequest ElectLeadersResponse,
    incremental_alter_configs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
    alter_partition_reassignments AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse,
    list_partition_reassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse,
    offset_delete OffsetDeleteRequest OffsetDeleteResponse,
    describe_quorum DescribeQuorumRequest DescribeQuorumResponse,
    describe_cluster DescribeClusterRequest DescribeClusterResponse,
    describe_producers DescribeProducersRequest DescribeProducersResponse,
    describe_transactions DescribeTransactionsRequest DescribeTransactionsResponse,
    list_transactions ListTransactionsRequest ListTransactionsResponse,
    consumer_group_heartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse,
    consumer_group_describe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse,
    list_config_resources ListConfigResourcesRequest ListConfigResourcesResponse,
    describe_topic_partitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
}

/// xorshift64*: a case is a function of its number alone.
struct Random(u64, Shape);

/// What bodies `Schema` writes.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// As of everyday use.
    Usual,
    /// The least bytes per element and many elements: what takes most memory per byte.
    Dense,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

struct Field {
    kind: String,
    versions: (i16, i16),
    nulls: (i16, i16),
    tag: Option<u32>,
}

/// The structs of one file under `src/wire`, read as text.
struct Schema(HashMap<String, Vec<Field>>);

impl Schema {
    fn parse(text: &str) -> Self {
        let (mut structs, mut current) = (HashMap::new(), None);
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
            if let Some(rest) = line.strip_prefix("struct ") {
                let name = rest.split([' ', '{']).next().unwrap().to_owned();
                structs.insert(name.clone(), Vec::new());
                current = (!line.ends_with('}')).then_some(name);
            } else if line == "}" {
                current = None;
            } else if let Some(current) = &current {
                let (_, field) = line.split_once(": ").unwrap_or_else(|| panic!("not a field: {line}"));
                structs.get_mut(current).unwrap().push(Field::parse(field.trim_end_matches(',')));
            }
        }
        Self(structs)
    }

    fn body(&self, name: &str, version: i16, flexible: bool, random: &mut Random) -> Bytes {
        let mut out = Vec::new();
        self.write_struct(name, version, flexible, random, &mut out);
        out.into()
    }

    fn write_struct(&self, name: &str, version: i16, flexible: bool, random: &mut Random, out: &mut Vec<u8>) {
        let fields = self.0.get(name).unwrap_or_else(|| panic!("no struct {name}"));
        let here = fields.iter().filter(|f| f.versions.0 <= version && version <= f.versions.1);
        let mut tagged = Vec::new();
        for field in here {
            let mut value = Vec::new();
            self.write(field, &field.kind, version, flexible, random, &mut value);
            match field.tag {
                None => out.extend(value),
                Some(tag) if random.1 == Shape::Usual && random.below(4) > 0 => tagged.push((tag, value)),
                Some(_) => {}
            }
        }
        if flexible {
            uvarint(tagged.len(), out);
            for (tag, value) in tagged {
                uvarint(tag as usize, out);
                uvarint(value.len(), out);
                out.extend(value);
            }
        }
    }

    fn write(&self, field: &Field, kind: &str, version: i16, flexible: bool, random: &mut Random, out: &mut Vec<u8>) {
        // A tagged field that holds its default is not written, so it gets a value that is no field's default.
        let (optional, kind) = match kind.strip_prefix("Option<") {
            Some(inner) => (true, inner.strip_suffix('>').unwrap()),
            None => (false, kind),
        };
        let nullable = optional && field.tag.is_none() && field.nulls.0 <= version && version <= field.nulls.1;
        let dense = random.1 == Shape::Dense;
        let null = nullable && random.below(if dense && !kind.starts_with("Vec<") { 1 } else { 4 }) == 0;
        let length = |n: Option<usize>, wide: bool, out: &mut Vec<u8>| match (flexible, wide) {
            (true, _) => uvarint(n.map_or(0, |n| n + 1), out),
            (false, true) => out.put_i32(n.map_or(-1, |n| n as i32)),
            (false, false) => out.put_i16(n.map_or(-1, |n| n as i16)),
        };
        let letters = |n, random: &mut Random| (0..n).map(|_| b'a' + random.below(26) as u8).collect::<Vec<_>>();
        let number = 5 + random.below(100);
        match kind {
            "bool" => out.put_u8(u8::from(field.tag.is_some() || random.below(2) == 1)),
            "i8" => out.put_i8(number as i8),
            "i16" | "ErrorCode" => out.put_i16(number as i16),
            "u16" => out.put_u16(number as u16),
            "i32" => out.put_i32(number as i32 * 1_000_003),
            "i64" => out.put_i64(number as i64 * 1_000_000_000_039),
            "Uuid" => out.extend((0..16).map(|_| random.next() as u8)),
            "String" | "Bytes" if null => length(None, kind == "Bytes", out),
            "String" | "Bytes" => {
                let n = if dense {
                    0
                } else if random.below(8) == 0 {
                    1000 + random.below(500)
                } else {
                    1 + random.below(9)
                };
                length(Some(n as usize), kind == "Bytes", out);
                out.extend(letters(n, random));
            }
            _ if kind.starts_with("Vec<") => {
                if null {
                    return length(None, true, out);
                }
                let n = if dense {
                    20 * random.below(2)
                } else if field.tag.is_some() {
                    1 + random.below(2)
                } else {
                    random.below(4)
                };
                length(Some(n as usize), true, out);
                for _ in 0..n {
                    self.write(field, &kind[4..kind.len() - 1], version, flexible, random, out);
                }
            }
            _ if null => out.put_i8(-1),
            _ => {
                if optional {
                    out.put_i8(1);
                }
                self.write_struct(kind, version, flexible, random, out);
            }
        }
    }
}

impl Field {
    /// `Type [versions; null versions; tag n] = default`, all after the type optional.
    fn parse(text: &str) -> Self {
        let (text, _) = text.split_once(" = ").unwrap_or((text, ""));
        let (kind, options) = text.split_once(" [").unwrap_or((text, ""));
        let always = (0, i16::MAX);
        let mut field = Self { kind: kind.to_owned(), versions: always, nulls: always, tag: None };
        for (i, option) in options.trim_end_matches(']').split("; ").enumerate().filter(|(_, o)| !o.is_empty()) {
            if let Some(tag) = option.strip_prefix("tag ") {
                field.tag = Some(tag.parse().unwrap());
            } else if let Some(nulls) = option.strip_prefix("null ") {
                field.nulls = range(nulls);
            } else {
                assert_eq!(i, 0, "{text}");
                field.versions = range(option);
            }
        }
        field
    }
}

fn range(text: &str) -> (i16, i16) {
    let (from, to) = text.split_once("..").unwrap();
    let to = to.trim_start_matches('=');
    (
        if from.is_empty() { 0 } else { from.parse().unwrap() },
        if to.is_empty() { i16::MAX } else { to.parse().unwrap() },
    )
}

fn uvarint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a `Debug` form in order: names, and values where they are numbers or truths and no error codes.
fn fields(debug: &str) -> Vec<(&str, &str)> {
    let mut fields = Vec::new();
    for (at, _) in debug.match_indices(": ") {
        let name = debug[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        let value = debug[at + 2..].split([',', ' ', '}', ']']).next().unwrap();
        // The oracle wraps: `Some(BrokerId(1))`.
        let value = value.rsplit('(').next().unwrap().trim_end_matches(')');
        let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
        if name != "unknown_tagged_fields" {
            fields.push((name, if plain && !name.ends_with("error_code") { value } else { "" }));
        }
    }
    fields
}

/// Every field of ours is one of the oracle's, in its order; the oracle also has those of newer versions.
fn assert_same_fields(ours: &str, oracle: &str) {
    let mut theirs = fields(oracle).into_iter();
    for field in fields(ours) {
        assert!(theirs.any(|k| k == field), "{field:?} is not Kafka's, or not here\n{ours}\n{oracle}");
    }
}

fn each_side(mut visit: impl FnMut(&Case, &Side, i16)) {
    for case in cases() {
        for version in case.api.min..=case.api.max {
            visit(&case, &case.request, version);
            visit(&case, &case.response, version);
        }
    }
}

#[test]
fn every_api_has_a_case() {
    assert_eq!(cases().iter().map(|c| c.api).collect::<Vec<_>>(), wire::APIS);
    assert!(wire::APIS.is_sorted_by_key(|a| a.key));
}

#[test]
fn both_codecs_make_the_same_bytes() {
    let mut random = Random(0x5eed, Shape::Usual);
    let mut skipped = Vec::new();
    each_side(|case, side, version| {
        let key = case.api.key;
        for round in 0..24 {
            let body = case.schema.body(side.name, version, case.api.is_flexible(version), &mut random);
            let at = format!("{} v{version} round {round}: {body:?}", side.name);
            let (ours, debug) = (side.recode)(body.clone(), version, version).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(ours, body, "ours: {at}\n{debug}");
            if NOT_IN_ORACLE.contains(&(key, version)) {
                skipped.push((key, version));
                continue;
            }
            let mut input = body.clone();
            let (theirs, oracle) = (side.oracle)(key, &mut input, version).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(!input.has_remaining(), "the oracle leaves bytes: {at}\n{oracle}");
            assert_eq!(theirs, body, "theirs: {at}\n{oracle}");
            // The bytes agree; so must names and values, else two fields of one type could have changed places, and the
            // defaults of what this version does not carry.
            assert_same_fields(&debug, &oracle);
        }
    });
    skipped.dedup();
    assert!(NOT_IN_ORACLE.iter().all(|n| skipped.contains(n)), "a stale entry");
}

/// Fields a version lacks are left out, not refused: a message with everything set is valid in every version.
#[test]
fn a_full_message_is_written_in_every_version() {
    let mut random = Random(0xf011, Shape::Usual);
    each_side(|case, side, version| {
        if NOT_IN_ORACLE.contains(&(case.api.key, version)) {
            return;
        }
        for from in case.api.min..=case.api.max {
            let body = case.schema.body(side.name, from, case.api.is_flexible(from), &mut random);
            let (bytes, _) = (side.recode)(body, from, version).unwrap();
            let mut input = bytes.clone();
            let at = format!("{} v{from} as v{version}", side.name);
            let (theirs, _) = (side.oracle)(case.api.key, &mut input, version).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(theirs, bytes, "{at}");
            assert!(!input.has_remaining(), "{at}");
        }
    });
}

#[test]
fn defaults_are_the_oracles() {
    for case in cases() {
        for (ours, oracle) in [case.request.defaults, case.response.defaults] {
            assert_same_fields(&ours, &oracle);
        }
    }
}

#[test]
fn headers_are_the_oracles() {
    use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
    fn version<M: HeaderVersion>(_: fn() -> M, version: i16) -> i16 {
        M::header_version(version)
    }
    assert_eq!(version(oracle::ApiVersionsResponse::default, 4), 0);
    for case in cases() {
        for version in case.api.min..=case.api.max {
            let (key, id) = (case.api.key, 77 + i32::from(version));
            let theirs = oracle::ApiKey::try_from(key as i16).unwrap();
            for client_id in [None, Some("me")] {
                let header = oracle::RequestHeader::default()
                    .with_request_api_key(key as i16)
                    .with_request_api_version(version)
                    .with_correlation_id(id)
                    .with_client_id(client_id.map(StrBytes::from_static_str));
                let mut out = BytesMut::new();
                header.encode(&mut out, theirs.request_header_version(version)).unwrap();
                out.put_slice(b"body");
                let mut d = Decoder::new(out.freeze());
                let ours = wire::RequestHeader::decode(&mut d).unwrap();
                assert_eq!((ours.api_key, ours.api_version, ours.correlation_id), (key as i16, version, id));
                assert_eq!((ours.client_id.as_deref(), d.remaining()), (client_id, 4));
            }
            let mut out = BytesMut::new();
            let header = oracle::ResponseHeader::default().with_correlation_id(id);
            header.encode(&mut out, theirs.response_header_version(version)).unwrap();
            out.put_slice(b"body");
            let mut d = Decoder::new(out.freeze());
            assert_eq!(wire::decode_response_header(&mut d, key, version), Ok(id));
            assert_eq!(d.remaining(), 4);

            let flexible = case.api.is_flexible(version);
            let request = wire::metadata::MetadataRequest::default();
            if key == ApiKey::Metadata {
                let mut frame = Bytes::from(wire::encode_request(&request, version, id, Some("me")).concat());
                assert_eq!(frame.get_i32() as usize, frame.len());
                let header = oracle::RequestHeader::decode(&mut frame, 1 + i16::from(flexible)).unwrap();
                assert_eq!((header.correlation_id, header.client_id.as_deref()), (id, Some("me")));
            }
        }
    }
}

#[test]
fn error_codes_are_named_as_the_oracle_names_them() {
    use kafka_protocol::ResponseError;
    for code in -1..=140 {
        let ours = ErrorCode(code);
        match ResponseError::try_from_code(code) {
            Some(theirs) if !matches!(theirs, ResponseError::Unknown(_)) => {
                let name = ours.name().unwrap_or_else(|| panic!("{code} has no name")).replace('_', "");
                assert!(name.eq_ignore_ascii_case(&theirs.to_string()), "{code}: {name} and {theirs}");
                // Kafka's own client has made this one retriable since the oracle's list was written.
                let retriable = theirs.is_retriable() || ours == ErrorCode::CONCURRENT_TRANSACTIONS;
                assert_eq!(ours.is_retriable(), retriable, "{name}");
            }
            _ => assert!(code == 0 || ours.name().is_none(), "{code}"),
        }
    }
}

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    LIVE.with(|live| {
        live.set(live.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes alive during `work` above what was alive before it.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (isize, T) {
    let before = LIVE.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = work();
    (PEAK.with(Cell::get) - before, result)
}

#[test]
fn hostile_bodies_neither_panic_nor_allocate() {
    let mut random = Random(0xbad, Shape::Usual);
    let (mut cases, mut read) = (0, 0);
    each_side(|case, side, version| {
        let mut attack = |body: Vec<u8>| {
            let body = Bytes::from(body);
            let (peak, result) = peak_bytes(|| (side.decode)(body.clone(), version));
            // Measured: 42 bytes per byte of body, 600 above that for the shortest.
            let limit = 4 * 1024 + 64 * body.len() as isize;
            assert!(peak <= limit, "{} v{version}: {} bytes took {peak}: {body:?}", side.name, body.len());
            assert_eq!(result, (side.recode)(body, version, version).is_ok());
            cases += 1;
            read += u32::from(result);
        };
        for round in 0..240 {
            let n = if round % 24 == 0 { 4096 } else { random.below(96) };
            attack(
                (0..n)
                    .map(|_| match round % 3 {
                        0 => random.next() as u8,
                        1 if random.below(8) > 0 => 0,
                        1 => random.next() as u8,
                        _ => [0, 1, random.next() as u8][random.below(3) as usize],
                    })
                    .collect(),
            );
        }
        let flexible = case.api.is_flexible(version);
        for _ in 0..40 {
            let mut body = case.schema.body(side.name, version, flexible, &mut random).to_vec();
            body.truncate(200);
            for _ in 0..random.below(4) {
                let at = random.below(body.len().max(1) as u64) as usize;
                if let Some(byte) = body.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6) as usize];
                }
            }
            let n = random.below(body.len() as u64 + 1) as usize;
            body.truncate(n);
            attack(body);
        }
        random.1 = Shape::Dense;
        for _ in 0..8 {
            attack(case.schema.body(side.name, version, flexible, &mut random).to_vec());
        }
        random.1 = Shape::Usual;
        // Array lengths of 2^31 - 1 and 2^32 - 1 after every prefix of zeros and of a short valid start.
        for zeros in 0..24 {
            attack([vec![0; zeros], vec![0x7f, 0xff, 0xff, 0xff]].concat());
            attack([vec![0; zeros], vec![0xff, 0xff, 0xff, 0xff, 0x0f]].concat());
        }
        attack(vec![0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    });
    for _ in 0..20_000 {
        let key = random.below(80) as i16;
        let frame = [&key.to_be_bytes()[..], &[0], &random.next().to_be_bytes(), &[0; 4]].concat();
        let cut = random.below(frame.len() as u64 + 1) as usize;
        let mut d = Decoder::new(Bytes::from(frame).slice(..cut));
        let (peak, _) = peak_bytes(|| wire::RequestHeader::decode(&mut d));
        assert!(peak < 256, "{peak}");
    }
    assert!(cases >= 100_000, "only {cases} cases");
    assert!(read > cases / 100, "hardly any case is read to its end: {read} of {cases}");
}
