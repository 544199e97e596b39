//! The file system below the data directory: its kind, its mount options, its room.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use super::{Finding, disk::existing};

const MIB: u64 = 1 << 20;
/// Less than this leaves no room for the file to turn over.
const LEAST_FREE_BYTES: u64 = 64 * MIB;
const TMPFS: [u32; 2] = [0x0102_1994, 0x8584_58F6];

/// One line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    source: String,
    options: Vec<String>,
}

/// Looks at the file system of the directory, or of the nearest one above that exists.
pub(super) fn look(dir: &Path, quota_bytes: Option<u64>) -> Vec<Finding> {
    let here = existing(dir);
    let here = here.canonicalize().unwrap_or(here);
    let (stat, room) = match (statfs(&here), statvfs(&here)) {
        (Ok(stat), Ok(room)) => (stat, room),
        (Err(error), _) | (_, Err(error)) => {
            let found = format!("{} cannot be looked at: {error}", here.display());
            return vec![Finding::change("disk", found, "choose another directory with --data-dir")];
        }
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = find(&mounts, &here);
    let mut findings = Vec::new();
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "magic numbers are 32 bits")]
    let magic = stat.f_type as u32;
    let name = mount.as_ref().map_or("a file system", |mount| &mount.kind);
    if let Some(refused) = crate::log::unsupported_file_system(magic) {
        findings.push(Finding::change(
            "disk",
            format!("{} is on {refused}, which cannot keep the log's promises", dir.display()),
            "choose a directory on a local disk with --data-dir",
        ));
    } else if TMPFS.contains(&magic) {
        findings.push(Finding::change(
            "disk",
            format!("{} is in memory ({name}): nothing survives a power cut", dir.display()),
            "choose a directory on a card or disk with --data-dir",
        ));
    } else {
        let from = mount.as_ref().map_or_else(String::new, |m| format!(" of {} at {}", m.source, m.point));
        findings.push(Finding::ok("disk", format!("{} is on {name}{from}", dir.display())));
    }
    if room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        findings.push(Finding::change(
            "disk",
            "the file system is read-only",
            "remount it writable; a card that turned read-only by itself is worn out: replace it",
        ));
    }
    findings.extend(mount.iter().flat_map(|mount| options(&mount.options)));

    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let own = std::fs::metadata(dir.join("data.mdb")).map_or(0, |m| m.len());
    let size = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
    if free + own < LEAST_FREE_BYTES {
        findings.push(Finding::change(
            "disk",
            format!("{} are free", size(free)),
            format!("free {} at least", size(LEAST_FREE_BYTES)),
        ));
    }
    match quota_bytes {
        // Deletion follows the quota; a disk that is full before it refuses records instead.
        Some(quota) if quota + quota / 8 > free + own => findings.push(Finding::change(
            "quota",
            format!("log.quota is {}, and the file system has {} for it", size(quota), size(free + own)),
            "set a smaller log.quota, or leave it out: then it is a quarter of what is free",
        )),
        Some(quota) => findings.push(Finding::ok("quota", format!("{}; {} are free", size(quota), size(free)))),
        None => {
            let quota = crate::log::quota_in_force(None, free + own);
            let found = format!("not set: a quarter of what is free, {}; {} are free", size(quota), size(free));
            findings.push(Finding::ok("quota", found));
        }
    }
    findings
}

/// What mount options say about promises.
fn options(options: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for option in options {
        match option.as_str() {
            "nobarrier" | "barrier=0" => findings.push(Finding::change(
                "disk",
                format!("mounted with {option}: the card may forget what was flushed"),
                "remove it from /etc/fstab and mount anew",
            )),
            "sync" | "dirsync" => findings.push(Finding::note(
                "disk",
                format!("mounted with {option}: every write flushes, which wears the card"),
                "Brooklet flushes what it must; remove it from /etc/fstab",
            )),
            _ => {}
        }
    }
    findings
}

/// The mount that holds a path: the last of those with the longest mount point.
fn find(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse);
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.len())
}

/// `36 35 98:0 /root /point options optional … - kind source super-options`
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let (point, own) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, source, of_all) = (right.next()?, right.next()?, right.next().unwrap_or_default());
    let options = own.split(',').chain(of_all.split(',')).map(str::to_owned).collect();
    Some(Mount { point: point.replace("\\040", " "), kind: kind.into(), source: source.into(), options })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro\n\
        30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=100k\n\
        41 22 8:1 / /srv/my\\040disk rw - ext4 /dev/sda1 rw,nobarrier\n";

    #[test]
    fn the_deepest_mount_point_counts() {
        let at = |path: &str| find(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(at("/var/lib/brooklet").source, "/dev/mmcblk0p2");
        assert_eq!(at("/run/x").kind, "tmpfs");
        assert_eq!(at("/runner").kind, "ext4");
        assert_eq!(at("/srv/my disk/data").source, "/dev/sda1");
    }

    #[test]
    fn options_that_break_promises_are_named() {
        let found = options(&find(MOUNTS, Path::new("/srv/my disk")).unwrap().options);
        assert_eq!((found.len(), found[0].level), (1, super::super::Level::Change));
        assert!(found[0].found.contains("nobarrier"));
        assert_eq!(options(&find(MOUNTS, Path::new("/")).unwrap().options), []);
    }
}
