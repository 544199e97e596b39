//! What the data directory lies on: a card that wears out, or something else.
//!
//! Asks the kernel's own tree of devices. Where that does not say (a network or overlay file system, a container), it is
//! no card.

use std::path::Path;

use rustix::fs::{major, minor, stat};

/// Whether a directory lies on an SD card or eMMC.
pub fn is_card(path: &Path) -> bool {
    stat(path).is_ok_and(|stat| is_card_device(Path::new("/sys"), major(stat.st_dev), minor(stat.st_dev)))
}

/// The kernel names both `mmcblk`; an encrypted or logical volume names the device below it as its slave.
fn is_card_device(sys: &Path, major: u32, minor: u32) -> bool {
    let Ok(device) = sys.join(format!("dev/block/{major}:{minor}")).canonicalize() else { return false };
    let is_named = |path: &Path| path.iter().any(|part| part.to_string_lossy().starts_with("mmcblk"));
    let slaves = std::fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    is_named(&device) || slaves.filter_map(|slave| slave.path().canonicalize().ok()).any(|slave| is_named(&slave))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_device() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        let device = |number: &str, path: &str| {
            let real = sys.join("devices").join(path);
            std::fs::create_dir_all(&real).unwrap();
            std::fs::create_dir_all(sys.join("dev/block")).unwrap();
            std::os::unix::fs::symlink(&real, sys.join("dev/block").join(number)).unwrap();
            real
        };
        let card = device("179:2", "platform/soc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/mmcblk0p2");
        device("8:1", "pci0000:00/ata1/block/sda/sda1");
        let volume = device("253:0", "virtual/block/dm-0");
        std::fs::create_dir(volume.join("slaves")).unwrap();
        std::os::unix::fs::symlink(card, volume.join("slaves/mmcblk0p2")).unwrap();
        assert!(is_card_device(sys, 179, 2));
        assert!(!is_card_device(sys, 8, 1));
        assert!(is_card_device(sys, 253, 0));
        assert!(!is_card_device(sys, 0, 40));
    }
}
