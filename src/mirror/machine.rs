//! What tells this log on this board from a copy of it on another: two boards that went on with one producer identity
//! would silently lose each other's records.

use std::fs;

use ring::digest::{Context, SHA256};

/// Stable names of the hardware: the board's serial number and the card's identification. Network addresses are left
/// out, because containers get new ones.
const HARDWARE: [&str; 3] =
    ["/sys/firmware/devicetree/base/serial-number", "/sys/block/mmcblk0/device/cid", "/sys/block/mmcblk1/device/cid"];

/// The log's incarnation together with the hardware it lies on.
pub(super) fn fingerprint(incarnation: [u8; 16]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    context.update(&incarnation);
    for path in HARDWARE {
        if let Ok(id) = fs::read(path) {
            context.update(path.as_bytes());
            context.update(&id);
        }
    }
    let digest = context.finish();
    digest.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes")
}
