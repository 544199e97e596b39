//! Kafka's zig-zag varints, as records use them.

use super::BatchError;

/// Reads a signed varint of at most 32 bits.
pub(super) fn read_i32(bytes: &mut &[u8]) -> Result<i32, BatchError> {
    i32::try_from(read(bytes, 5)?).map_err(|_| BatchError::Record("varint over 32 bits"))
}

/// Reads a signed varint of at most 64 bits.
pub(super) fn read_i64(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    read(bytes, 10)
}

fn read(bytes: &mut &[u8], most: u32) -> Result<i64, BatchError> {
    let mut raw = 0u64;
    for i in 0..most {
        let Some((&byte, rest)) = bytes.split_first() else { return Err(BatchError::Record("ends within a varint")) };
        *bytes = rest;
        raw |= u64::from(byte & 0x7f).wrapping_shl(7 * i);
        if byte < 0x80 {
            return Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64));
        }
    }
    Err(BatchError::Record("varint too long"))
}

/// Appends a signed varint.
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// How many bytes [`put`] takes.
pub(super) fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_read(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), size(value));
            prop_assert_eq!(read_i64(&mut &out[..]).unwrap(), value);
            prop_assert_eq!(read_i32(&mut &out[..]).ok(), i32::try_from(value).ok());
        }
    }

    #[test]
    fn an_endless_varint_is_refused() {
        assert!(read_i32(&mut &[0xff; 11][..]).is_err());
        assert!(read_i64(&mut &[0xff; 11][..]).is_err());
        assert!(read_i64(&mut &[0x80][..]).is_err());
    }
}
