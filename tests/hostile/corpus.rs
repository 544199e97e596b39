//! The fuzzers' corpus on a stable compiler: each input as it is and spoiled a little, through the fuzzers' own functions.

use std::{
    fs,
    path::{Path, PathBuf},
};

use brooklet::{
    record::{Codec, batch},
    wire::{APIS, ApiKey},
};
use bytes::Bytes;

use crate::{
    dice::Dice,
    mutation::{signed_batch, splice, spoil},
    requests::{self, Scene},
    subjects::{self, Side},
};

type Subject = (&'static str, fn(&[u8]));

const SUBJECTS: [Subject; 4] = [
    ("frames", subjects::frames),
    ("bodies", subjects::bodies),
    ("batches", subjects::batches),
    ("codecs", subjects::codecs),
];

/// Spoiled copies of each input.
const COPIES: usize = 400;

fn directory(subject: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(subject)
}

fn inputs(subject: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(directory(subject)).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    inputs.sort();
    assert!(inputs.len() >= 8, "{subject}: the corpus is missing");
    inputs
}

fn replay((name, subject): Subject) {
    let inputs = inputs(name);
    let mut dice = Dice::new(0xc0ffee, name.len() as u64);
    for (path, input) in &inputs {
        println!("{}", path.display()); // shown where it fails
        subject(input);
        for _ in 0..COPIES {
            let mut copy = input.clone();
            match dice.within(0, 8) {
                0 => copy = splice(&copy, &inputs[dice.within(0, inputs.len() as u64) as usize].1, &mut dice),
                1 if name == "batches" => copy = signed_batch(&copy, &mut dice),
                _ => spoil(&mut copy, &mut dice),
            }
            subject(&copy);
        }
    }
}

#[test]
fn frames_do_no_harm() {
    replay(SUBJECTS[0]);
}

#[test]
fn bodies_do_no_harm() {
    replay(SUBJECTS[1]);
}

#[test]
fn batches_do_no_harm() {
    replay(SUBJECTS[2]);
}

#[test]
fn codecs_do_no_harm() {
    replay(SUBJECTS[3]);
}

/// The requests that the corpus and the hostile clients begin with are what they say.
#[test]
fn seeds_are_valid() {
    for seed in requests::all(Scene::default()) {
        let api = seed.key.api();
        let flexible = api.is_flexible(seed.version);
        // Length, key, version, correlation id, client id, and where they belong its tagged fields.
        let header = 4 + 8 + 2 + "hostile".len() + usize::from(flexible);
        let body = Bytes::copy_from_slice(&seed.frame[header..]);
        assert!(subjects::is_body(seed.key, Side::Request, seed.version, &body), "{:?} {}", seed.key, seed.version);
    }
}

/// With WRITE_CORPUS=1 writes the seeds into the corpus; else sees that they are there.
#[test]
fn seeds_are_in_the_corpus() {
    for (subject, name, bytes) in seeds() {
        let file = directory(subject).join(name);
        if std::env::var_os("WRITE_CORPUS").is_some() {
            fs::create_dir_all(directory(subject)).unwrap();
            fs::write(file, bytes).unwrap();
        } else {
            assert!(file.exists(), "{} is missing: run this with WRITE_CORPUS=1", file.display());
        }
    }
}

fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    let requests = requests::all(Scene::default());
    for (place, api) in APIS.iter().enumerate() {
        let mine = || requests.iter().filter(|seed| seed.key == api.key);
        // Produce is long: of it one request for each batch, of the others one for each version.
        let newest = mine().filter(|seed| api.key != ApiKey::Produce || seed.version == api.max);
        let frames: Vec<_> = newest.flat_map(|seed| seed.frame.clone()).take(4000).collect();
        all.push(("frames", api.key.name().to_owned(), frames));
        for version in [api.min, api.max] {
            let seed = mine().find(|seed| seed.version == version).unwrap();
            let header = 4 + 8 + 2 + "hostile".len() + usize::from(api.is_flexible(version));
            let choice = subjects::choice(api, Side::Request, version);
            let body = [&[u8::try_from(place).unwrap(), choice], &seed.frame[header..]].concat();
            all.push(("bodies", format!("{}-{version}", api.key.name()), body));
        }
        // Answers begin with zeros: no error, nothing to say, and then lists.
        let choice = subjects::choice(api, Side::Response, api.max);
        let body =
            [&[u8::try_from(place).unwrap(), choice][..], &[0; 8], &[0, 0, 0, 1, 2, 0, 1, b'a'], &[0; 48]].concat();
        all.push(("bodies", format!("{}-answer", api.key.name()), body));
    }
    let batches = requests::batches();
    for (batch, name) in batches.iter().skip(1).zip(["none", "gzip", "snappy", "lz4", "zstd", "idempotent"]) {
        all.push(("batches", name.to_owned(), batch.to_vec()));
    }
    all.push(("batches", "several".into(), [&batches[1][..], &batches[5], &batches[6]].concat()));
    let marker = brooklet::record::marker::marker(1, 0, brooklet::record::Outcome::Commit, 0);
    all.push(("batches", "marker".into(), marker.to_vec()));

    let text = b"a line of text that comes again, ".repeat(20);
    for (number, codec) in (0u8..).zip(&Codec::ALL[1..]) {
        let packed = &batches[2 + usize::from(number)][batch::HEADER_BYTES..];
        all.push(("codecs", codec.to_string(), [&[number, 16], packed].concat()));
        all.push(("codecs", format!("{codec}-tight"), [&[number, 6], packed].concat()));
        all.push(("codecs", format!("{codec}-bomb"), [&[number, 12], &bomb(*codec)[..]].concat()));
    }
    let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
    all.push(("codecs", "snappy-raw".into(), [&[1, 16], &raw[..]].concat()));
    let streamed = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, &text).unwrap();
        encoder.finish().unwrap()
    };
    all.push(("codecs", "zstd-without-size".into(), [&[3, 16], &streamed[..]].concat()));
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Linked)
        .block_checksums(true)
        .content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    std::io::Write::write_all(&mut encoder, &text).unwrap();
    all.push(("codecs", "lz4-linked".into(), [&[2, 16], &encoder.finish().unwrap()[..]].concat()));
    all
}

/// A MiB of zeros, packed.
fn bomb(codec: Codec) -> Vec<u8> {
    let mut builder = brooklet::record::Builder::new();
    builder.push(0, None, Some(&vec![0; 1 << 20]), &[]).unwrap();
    let batch = builder.finish(codec, codec.default_level());
    // Long enough to be one, short enough for a corpus.
    batch[batch::HEADER_BYTES..].iter().copied().take(6000).collect()
}
