//! `system.filesystem`: each mounted disk's space, one event each.
//!
//! A disk is listed once, at its shortest mount point, however often it is mounted: bind mounts and the mount
//! namespace of a hardened service show the same one several times. File systems without a device (`nodev` in
//! `/proc/filesystems`) and mounts below the system's own directories are left out, as metricbeat's defaults do.

use std::{io, path::Path};

use serde::Serialize;

use super::{
    event::Pct,
    files::{Files, lines, words},
};

/// First directories of mount points that are not listed.
const LEFT_OUT: [&str; 8] = ["sys", "cgroup", "proc", "dev", "etc", "host", "lib", "snap"];

/// `system.filesystem`.
#[derive(Debug, Serialize)]
pub(super) struct Filesystem {
    pub(super) filesystem: Disk,
}

#[derive(Debug, Serialize)]
pub(super) struct Disk {
    device_name: String,
    pub(super) mount_point: String,
    r#type: String,
    options: String,
    pub(super) total: u64,
    pub(super) free: u64,
    available: u64,
    pub(super) files: u64,
    free_files: u64,
    pub(super) used: Used,
}

#[derive(Debug, Serialize)]
pub(super) struct Used {
    pub(super) bytes: u64,
    /// Of what is used and available, as `df` has it: the reserve of root counts for neither.
    pct: Pct,
}

/// What a file system says of its space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) files: u64,
    pub(super) free_files: u64,
}

/// Asks the system, or a test, about the file system mounted at a path.
pub(super) type Ask = fn(&Path) -> io::Result<Space>;

/// Asks the system.
pub(super) fn ask(path: &Path) -> io::Result<Space> {
    let answer = rustix::fs::statvfs(path)?;
    Ok(Space {
        block_bytes: answer.f_frsize,
        blocks: answer.f_blocks,
        free: answer.f_bfree,
        available: answer.f_bavail,
        files: answer.f_files,
        free_files: answer.f_ffree,
    })
}

struct Mount {
    /// Major and minor number: the same for every mount of one disk.
    device: String,
    name: String,
    point: String,
    kind: String,
    options: String,
}

/// All disks, in the order of their first mount.
pub(super) fn read(proc: &mut Files, ask: Ask) -> io::Result<Vec<Filesystem>> {
    let nodev: Vec<String> = lines(proc.read("filesystems")?)
        .filter_map(|line| Some(String::from_utf8_lossy(line.strip_prefix(b"nodev")?).trim().to_owned()))
        .collect();
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in lines(proc.read("self/mountinfo")?).filter_map(mount) {
        let first = mount.point.trim_start_matches('/').split('/').next().unwrap_or_default();
        if LEFT_OUT.contains(&first) || nodev.contains(&mount.kind) {
            continue;
        }
        match mounts.iter_mut().find(|m| m.device == mount.device) {
            // Mounted over another one at the same point, the later is the one that is seen.
            Some(known) if mount.point.len() <= known.point.len() => *known = mount,
            Some(_) => {}
            None => mounts.push(mount),
        }
    }
    // One that cannot be asked, such as a stick that was pulled out, is left out.
    Ok(mounts.into_iter().filter_map(|mount| Some(disk(ask(Path::new(&mount.point)).ok()?, mount))).collect())
}

fn disk(space: Space, mount: Mount) -> Filesystem {
    let Space { block_bytes, blocks, free, available, files, free_files } = space;
    let bytes = |blocks: u64| blocks.saturating_mul(block_bytes);
    let used = bytes(blocks.saturating_sub(free));
    Filesystem {
        filesystem: Disk {
            device_name: mount.name,
            mount_point: mount.point,
            r#type: mount.kind,
            options: mount.options,
            total: bytes(blocks),
            free: bytes(free),
            available: bytes(available),
            files,
            free_files,
            used: Used { bytes: used, pct: Pct::of(used, used.saturating_add(bytes(available))) },
        },
    }
}

/// One line of mountinfo: id, parent, device, root, mount point, options, optional fields, `-`, type, name, options.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = words(line).map(unescape);
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    let own_options = fields.next()?;
    fields.find(|f| f == "-")?;
    let (kind, name) = (fields.next()?, fields.next()?);
    // The disk's own options begin with whether it can be written, which the mount has said.
    let mut options = own_options;
    for option in fields.next().unwrap_or_default().split(',').filter(|o| !matches!(*o, "" | "rw" | "ro")) {
        options.push(',');
        options.push_str(option);
    }
    Some(Mount { device, name, point, kind, options })
}

/// Blanks, tabs, line breaks and backslashes stand as `\` and three octal digits.
fn unescape(word: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .first_chunk::<3>()
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/media/my\040disk\134x\09"), r"/media/my disk\x\09");
        let mount =
            mount(br"36 35 98:0 /mnt1 /mnt/a\040b rw,noatime master:1 - ext3 /dev/root rw,errors=continue").unwrap();
        assert_eq!(
            (&*mount.device, &*mount.point, &*mount.kind, &*mount.name),
            ("98:0", "/mnt/a b", "ext3", "/dev/root")
        );
        assert_eq!(mount.options, "rw,noatime,errors=continue");
    }
}
