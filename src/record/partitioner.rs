//! Kafka's default partitioner for records with a key, so that equal keys meet whoever produced them.

/// Austin Appleby's MurmurHash 2 in 32 bits, with the seed of Kafka's clients.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // The length enters the hash modulo 2^32, as an `int` does in Java.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of `partitions` that Kafka's default partitioner gives this key; 0 if there are fewer than two.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    let Ok(count @ 2..) = u32::try_from(partitions) else { return 0 };
    // Below `count`, which came from an i32.
    ((murmur2(key) & 0x7fff_ffff) % count) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that Kafka's own clients give.
    #[test]
    fn known_vectors() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
        assert_eq!(partition_for_key(b"foobar", 3), ((-790_332_482i32) & 0x7fff_ffff) % 3);
        assert_eq!(partition_for_key(b"foobar", 1), 0);
        assert_eq!(partition_for_key(b"foobar", 0), 0);
        assert_eq!(partition_for_key(b"", -1), 0);
    }
}
