//! `system.fsstat`: the space of all disks together.

use serde::Serialize;

use super::filesystem::Filesystem;

/// `system.fsstat`.
#[derive(Debug, Serialize)]
pub(super) struct Fsstat {
    fsstat: Sums,
}

#[derive(Debug, Default, Serialize)]
struct Sums {
    count: usize,
    total_files: u64,
    total_size: Sizes,
}

#[derive(Debug, Default, Serialize)]
struct Sizes {
    free: u64,
    total: u64,
    used: u64,
}

/// Adds up the disks of [`super::filesystem::read`].
pub(super) fn sum(disks: &[Filesystem]) -> Fsstat {
    let mut sums = Sums { count: disks.len(), ..Sums::default() };
    for Filesystem { filesystem: disk } in disks {
        sums.total_files = sums.total_files.saturating_add(disk.files);
        sums.total_size.total = sums.total_size.total.saturating_add(disk.total);
        sums.total_size.free = sums.total_size.free.saturating_add(disk.free);
        sums.total_size.used = sums.total_size.used.saturating_add(disk.used.bytes);
    }
    Fsstat { fsstat: sums }
}
