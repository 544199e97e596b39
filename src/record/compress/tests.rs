use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;

fn packed(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Packer::default().pack(codec, codec.default_level(), plain, &mut out), "{codec}");
    out
}

/// What the codec's own library makes of it: a second opinion on our framing.
fn by_library(codec: Codec, packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match codec {
        Codec::None => out.extend_from_slice(packed),
        Codec::Gzip => drop(MultiGzDecoder::new(packed).read_to_end(&mut out).unwrap()),
        Codec::Lz4 => drop(lz4_flex::frame::FrameDecoder::new(packed).read_to_end(&mut out).unwrap()),
        Codec::Zstd => out = zstd::decode_all(packed).unwrap(),
        Codec::Snappy => {
            let mut rest = packed.strip_prefix(&XERIAL_HEADER).unwrap();
            while let Some((size, after)) = rest.split_first_chunk::<4>() {
                let (block, after) = after.split_at(u32::from_be_bytes(*size) as usize);
                out.extend(snap::raw::Decoder::new().decompress_vec(block).unwrap());
                rest = after;
            }
        }
    }
    out
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

#[test]
fn each_codec_returns_what_it_packed() {
    let text = b"a line of text that comes again, ".repeat(9000);
    let mixed = [text.as_slice(), &noise(100_000), &text].concat();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for plain in [&text, &mixed] {
            let packed = packed(codec, plain);
            assert_eq!(by_library(codec, &packed), *plain, "{codec}");
            let mut unpacker = Unpacker::new(plain.len());
            assert_eq!(unpacker.unpack(codec, &packed).unwrap(), *plain, "{codec}");
            assert_eq!(unpacker.unpack(codec, &packed).unwrap(), *plain, "{codec}, a second time");
            let mut tight = Unpacker::new(plain.len() - 1);
            let error = BatchError::TooLarge { limit_bytes: plain.len() - 1 };
            assert_eq!(tight.unpack(codec, &packed), Err(error), "{codec}");
        }
    }
}

#[test]
fn other_framings_of_the_clients_are_read() {
    let text = b"metric event, metric event; ".repeat(20_000);
    let mut unpacker = Unpacker::new(2 << 20);
    // librdkafka sends snappy without the Java framing.
    let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
    assert_eq!(unpacker.unpack(Codec::Snappy, &raw).unwrap(), text);
    // Go clients send 4 MiB LZ4 blocks, others linked blocks, checksums and the content's size.
    let noisy = [&text[..], &noise(200_000)].concat();
    for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for checks in [false, true] {
                for plain in [&text, &noisy] {
                    let info = FrameInfo::new()
                        .block_size(size)
                        .block_mode(mode)
                        .block_checksums(checks)
                        .content_checksum(checks)
                        .content_size(checks.then_some(plain.len() as u64));
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(plain).unwrap();
                    let frame = encoder.finish().unwrap();
                    assert_eq!(unpacker.unpack(Codec::Lz4, &frame).unwrap(), *plain, "{size:?} {mode:?} {checks}");
                }
            }
        }
    }
    // Java's zstd stream does not say how much it holds, and members or frames may follow each other.
    let mut streamed = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    streamed.write_all(&text).unwrap();
    let mut frames = streamed.finish().unwrap();
    assert_eq!(zstd_safe::get_frame_content_size(&frames).unwrap(), None);
    assert_eq!(unpacker.unpack(Codec::Zstd, &frames).unwrap(), text);
    frames.extend(packed(Codec::Zstd, b"more and more and more and more and more and more"));
    assert!(unpacker.unpack(Codec::Zstd, &frames).unwrap().ends_with(b"more and more"));
    let mut members = packed(Codec::Gzip, &text);
    members.extend(packed(Codec::Gzip, &text));
    assert_eq!(unpacker.unpack(Codec::Gzip, &members).unwrap().len(), 2 * text.len());
}

#[test]
fn a_bomb_is_refused_within_the_limit() {
    const LIMIT_BYTES: usize = 256 * 1024;
    let zeros = vec![0; 64 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = packed(codec, &zeros);
        let mut unpacker = Unpacker::new(LIMIT_BYTES);
        let error = BatchError::TooLarge { limit_bytes: LIMIT_BYTES };
        assert_eq!(unpacker.unpack(codec, &bomb), Err(error), "{codec}");
        assert!(unpacker.buffer.capacity() <= LIMIT_BYTES + 1, "{codec} took {} bytes", unpacker.buffer.capacity());
        // The next batch gives most of it back.
        assert!(unpacker.unpack(Codec::None, b"x").is_ok());
        assert!(unpacker.buffer.capacity() <= KEPT_BYTES, "{codec}");
    }
    // A zstd frame without its size, and one that lies about it.
    let mut streamed = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    streamed.write_all(&zeros).unwrap();
    let bomb = streamed.finish().unwrap();
    let mut unpacker = Unpacker::new(LIMIT_BYTES);
    assert_eq!(unpacker.unpack(Codec::Zstd, &bomb), Err(BatchError::TooLarge { limit_bytes: LIMIT_BYTES }));
    assert!(unpacker.buffer.capacity() <= LIMIT_BYTES);
}

#[test]
fn a_claimed_size_alone_sets_nothing_aside() {
    // A raw snappy block of a few bytes that claims 200 MB.
    let mut unpacker = Unpacker::new(usize::MAX / 2);
    let lie = [0x80, 0x84, 0xaf, 0x5f, 0, b'x'];
    assert_eq!(unpacker.unpack(Codec::Snappy, &lie), Err(BatchError::Compressed("snappy")));
    assert_eq!(unpacker.buffer.capacity(), 0);
}

#[test]
fn contexts_are_small_and_only_where_used() {
    let plain = b"{\"name\":\"cpu\",\"value\":0.12345,\"host\":\"edge\"}".repeat(6000);
    let mut packer = Packer::default();
    let mut out = Vec::new();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
        assert!(packer.pack(codec, codec.default_level(), &plain, &mut out));
        assert_eq!(packer.memory_bytes(), 0);
    }
    assert!(packer.pack(Codec::Zstd, 3, &plain[..256 * 1024], &mut out));
    let held = packer.memory_bytes();
    assert!(held < 1_000_000, "{held}");
    assert!(packer.pack(Codec::Zstd, 3, &plain[..256 * 1024], &mut out));
    assert_eq!(packer.memory_bytes(), held);
    packer.release();
    assert_eq!(packer.memory_bytes(), 0);
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut out = b"before".to_vec();
        assert!(!Packer::default().pack(codec, codec.default_level(), &noise(5000), &mut out));
        assert_eq!(out, b"before");
    }
}

proptest! {
    #[test]
    fn damage_never_panics_nor_passes_the_limit(
        codec in prop::sample::select(&[Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = packed(codec, &b"something to pack, something else to pack. ".repeat(300));
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut unpacker = Unpacker::new(100_000);
        if let Ok(out) = unpacker.unpack(codec, &bytes) {
            prop_assert!(out.len() <= 100_000);
        }
        prop_assert!(unpacker.buffer.capacity() <= 100_001);
    }

    #[test]
    fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), code in 1usize..5) {
        let mut unpacker = Unpacker::new(10_000);
        let _any = unpacker.unpack(Codec::ALL[code], &bytes).is_ok();
        prop_assert!(unpacker.buffer.capacity() <= KEPT_BYTES);
    }
}
