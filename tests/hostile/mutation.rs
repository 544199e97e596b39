//! Ways to spoil bytes. Which one is taken, and where, follows from the dice alone.

use crate::{dice::Dice, subjects};

/// What a length, a count or a number may be where it does harm.
const NUMBERS: [i64; 12] = [0, 1, -1, -2, 0x7f, 0x80, 0x7fff, 0xffff, 0x10_0000, 0x7fff_ffff, 0xffff_ffff, i64::MIN];
const BYTES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];

/// Changes bytes anywhere, and their number. Never makes more than a little of nothing.
pub(crate) fn spoil(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let rounds = dice.within(1, 4);
    for _ in 0..rounds {
        if bytes.is_empty() {
            bytes.push(dice.next() as u8);
        }
        let at = below(bytes.len(), dice);
        match dice.within(0, 7) {
            0 | 1 => bytes[at] ^= 1 << dice.within(0, 8),
            2 => bytes[at] = BYTES[below(BYTES.len(), dice)],
            3 => {
                let number = NUMBERS[below(NUMBERS.len(), dice)].to_be_bytes();
                let width = [2, 4, 8][below(3, dice)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[8 - width..]);
            }
            4 => {
                // A varint of 2^32 - 1.
                let end = bytes.len().min(at + 5);
                bytes[at..end].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f][..end - at]);
            }
            5 => {
                let end = bytes.len().min(at + below(16, dice));
                drop(bytes.drain(at..end));
            }
            _ => {
                let end = bytes.len().min(at + below(16, dice));
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
}

/// The beginning of one and the end of another.
pub(crate) fn splice(head: &[u8], tail: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (cut, from) = (below(head.len() + 1, dice), below(tail.len() + 1, dice));
    [&head[..cut], &tail[from..]].concat()
}

/// A spoiled batch with a right length and checksum, so that what lies behind them is reached.
pub(crate) fn signed_batch(batch: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (head, records) = batch.split_at(batch.len().min(61));
    let (mut head, mut records) = (head.to_vec(), records.to_vec());
    if dice.is_one_in(3) && head.len() > 21 {
        // Attributes, deltas, times, producer, count.
        let mut fields = head.split_off(21);
        let length = fields.len();
        spoil(&mut fields, dice);
        fields.resize(length, 0);
        head.extend(fields);
    } else {
        spoil(&mut records, dice);
    }
    let bytes = [head, records].concat();
    if bytes.len() < 61 { bytes } else { subjects::signed(&bytes) }
}

pub(crate) fn below(n: usize, dice: &mut Dice) -> usize {
    usize::try_from(dice.within(0, n as u64)).unwrap()
}
