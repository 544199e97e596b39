//! A walk over the trees of a data file that may be damaged: everything that can be reached, and everything that is wrong.
//!
//! Checks what LMDB takes for granted: page numbers within the file, no page used twice, pages of the right kind at the
//! right depth, keys in order and within their branch's bounds, counts as the meta page says, every page either used or
//! free. Goes on past what is wrong and says which keys may lie there. Reads pages of the trees only, not the values'
//! own pages: one page in about a thousand of a log of full chunks.

use std::{cmp::Ordering, fs::File, io};

use super::pages::{
    Content, META_PAGES, Meta, PAGE_HEADER_BYTES, Pages, Tree, Value, content, free_key, free_pages, value_pages,
};

/// Faults kept; more say nothing new.
const MOST_FAULTS: usize = 1_000;

/// Something wrong in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) page: u64,
    pub(super) what: String,
    /// Keys of the database that may be missing because of it: from the first on, below the second if there is one.
    pub(super) keys: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {}: {}", self.page, self.what)
    }
}

/// What the file's two meta pages say.
#[derive(Debug)]
pub(super) struct Metas {
    /// Those that can be, the newest first.
    pub(super) usable: Vec<Meta>,
    /// What is wrong with them.
    pub(super) faults: Vec<Fault>,
}

/// Reads the meta pages.
pub(super) fn metas(file: &File) -> io::Result<Metas> {
    use std::os::unix::fs::FileExt as _;
    let mut faults = Vec::new();
    let mut fault = |page, what: String| faults.push(Fault { page, what, keys: None });
    let mut read = |at: u64, number| {
        let mut head = [0; 256];
        match file.read_exact_at(&mut head, at) {
            Ok(()) => Meta::parse(&head, number).map_err(|what| fault(number, what)).ok(),
            Err(_) => {
                fault(number, format!("meta page {number}: it is cut off"));
                None
            }
        }
    };
    let first = read(0, 0);
    let page_bytes = first.map_or(super::layout::PAGE_BYTES, |meta| meta.page_bytes);
    let second = read(page_bytes as u64, 1);
    let mut usable: Vec<Meta> = [first, second].into_iter().flatten().collect();
    usable.sort_unstable_by_key(|meta| std::cmp::Reverse(meta.txn));
    if let [newer, older] = usable[..] {
        // Every commit writes the other page; a new file has two that are equal.
        if newer.txn > 1 && newer.txn != older.txn + 1 || newer.page_bytes != older.page_bytes {
            fault(1 - newer.txn % META_PAGES, "the meta pages do not follow each other".into());
        }
    }
    Ok(Metas { usable, faults })
}

/// One walk over one state of the file.
pub(super) struct Walk<'f> {
    pages: &'f Pages,
    /// First page number that is none.
    end: u64,
    used: Bits,
    used_count: u64,
    /// Pages read.
    pub(super) read_pages: u64,
    pub(super) faults: Vec<Fault>,
}

/// What is being walked over.
struct Course<'v> {
    tree: Tree,
    is_free: bool,
    visit: &'v mut dyn FnMut(&[u8], Value<'_>),
    seen: Tree,
    last_key: Option<Vec<u8>>,
}

impl<'f> Walk<'f> {
    pub(super) fn new(pages: &'f Pages, meta: &Meta) -> Self {
        // A page number beyond the file cannot be read, whatever the meta page says.
        let end = meta.last_page.saturating_add(1).min(pages.count);
        Self { pages, end, used: Bits::new(end), used_count: 0, read_pages: 0, faults: Vec::new() }
    }

    /// Walks over the database and hands out its entries, in order.
    pub(super) fn main(&mut self, meta: &Meta, visit: &mut dyn FnMut(&[u8], Value<'_>)) {
        self.tree(meta.main, false, visit);
    }

    /// Walks over the list of free pages and checks that with it every page is accounted for. After [`Self::main`].
    pub(super) fn free(&mut self, meta: &Meta) {
        let mut wrong = Vec::new();
        let (mut free, mut free_count) = (Bits::new(self.end), 0);
        let (pages, end) = (self.pages, self.end);
        self.tree(meta.free, true, &mut |key, value| {
            let Some(txn) = free_key(key).filter(|txn| *txn <= meta.txn) else {
                return wrong.push("the list of free pages has a key that cannot be".to_owned());
            };
            let own;
            let value = match value {
                Value::Inline(value) => Some(value),
                Value::Own { page, bytes } => {
                    own = pages.value(page, bytes);
                    own.as_deref()
                }
            };
            let Some(list) = value.and_then(free_pages) else {
                return wrong.push(format!("the free pages of transaction {txn} cannot be read"));
            };
            let mut before = u64::MAX;
            for page in list {
                free_count += 1;
                if !(META_PAGES..=meta.last_page).contains(&page) || page >= before {
                    return wrong.push(format!("the free pages of transaction {txn} cannot be, at page {page}"));
                }
                // Free pages at the end need not be in the file.
                if page < end && free.set(page) {
                    return wrong.push(format!("page {page} is free twice"));
                }
                before = page;
            }
        });
        if free.overlaps(&self.used) {
            wrong.push("a page is free, and in use".into());
        }
        let last = meta.last_page;
        let accounted = META_PAGES + self.used_count + free_count;
        if wrong.is_empty() && self.faults.is_empty() && accounted != last + 1 {
            wrong.push(format!("{accounted} pages are accounted for, of {}", last + 1));
        }
        for what in wrong {
            self.fault(0, what, None);
        }
    }

    fn tree(&mut self, tree: Tree, is_free: bool, visit: &mut dyn FnMut(&[u8], Value<'_>)) {
        let seen = Tree { branch_pages: 0, leaf_pages: 0, overflow_pages: 0, entries: 0, ..tree };
        let mut course = Course { tree, is_free, visit, seen, last_key: None };
        let before = self.faults.len();
        match (tree.root, tree.depth) {
            (None, 0) => {}
            (Some(root), 1..) => self.page(&mut course, root, 1, (&[], None)),
            _ => self.fault(0, "a tree's root does not fit its depth".into(), (!is_free).then(|| (Vec::new(), None))),
        }
        if self.faults.len() == before && course.seen != tree {
            self.fault(0, "a tree's counts are not what is in it".into(), None);
        }
    }

    /// Walks over a page and what is below it; its keys lie within `bounds`.
    fn page(&mut self, course: &mut Course<'_>, number: u64, level: u16, bounds: (&[u8], Option<&[u8]>)) {
        let keys = || (!course.is_free).then(|| (bounds.0.to_vec(), bounds.1.map(<[u8]>::to_vec)));
        if let Err(what) = self.take(number, 1) {
            return self.fault(number, what, keys());
        }
        let mut page = vec![0; self.pages.page_bytes];
        self.read_pages += 1;
        if !self.pages.read(number, &mut page) {
            return self.fault(number, "it cannot be read".into(), keys());
        }
        let is_leaf = level == course.tree.depth;
        match content(&page, number) {
            Err(what) => self.fault(number, what.into(), keys()),
            Ok(Content::Branch(_)) if is_leaf => self.fault(number, "a branch lies too deep".into(), keys()),
            Ok(Content::Leaf(_)) if !is_leaf => self.fault(number, "a leaf lies too high".into(), keys()),
            Ok(Content::Branch(nodes)) => {
                course.seen.branch_pages += 1;
                if nodes.len() < 2 && !course.is_free {
                    self.fault(number, "a branch leads to one page only".into(), None);
                }
                let within = |key: &[u8]| {
                    compare(course.is_free, key, bounds.0) != Ordering::Less
                        && bounds.1.is_none_or(|high| compare(course.is_free, key, high) == Ordering::Less)
                };
                let rising = nodes[1..].windows(2).all(|pair| compare(course.is_free, pair[0].0, pair[1].0).is_lt());
                if !rising || !nodes[1..].iter().all(|(key, _)| !key.is_empty() && within(key)) {
                    return self.fault(number, "a branch's keys are not in order".into(), keys());
                }
                for (index, (key, below)) in nodes.iter().enumerate() {
                    let low = if index == 0 { bounds.0 } else { key };
                    let high = nodes.get(index + 1).map(|(key, _)| *key).or(bounds.1);
                    self.page(course, *below, level + 1, (low, high));
                }
            }
            Ok(Content::Leaf(nodes)) => {
                course.seen.leaf_pages += 1;
                for (key, value) in nodes {
                    course.seen.entries += 1;
                    let is_after =
                        course.last_key.as_deref().is_none_or(|last| compare(course.is_free, last, key).is_lt());
                    let is_within = compare(course.is_free, key, bounds.0).is_ge()
                        && bounds.1.is_none_or(|high| compare(course.is_free, key, high).is_lt());
                    if !is_after || !is_within {
                        self.fault(number, "a leaf's keys are not in order".into(), keys());
                        continue;
                    }
                    course.last_key = Some(key.to_vec());
                    if let Value::Own { page, bytes } = value {
                        let count = value_pages(bytes, self.pages.page_bytes);
                        course.seen.overflow_pages += count;
                        if let Err(what) = self.take(page, count) {
                            // Its key is right all the same; whether the value is, its checksum says.
                            self.fault(number, format!("a value's pages: {what}"), None);
                        }
                    }
                    (course.visit)(key, value);
                }
            }
        }
    }

    /// Marks pages as used; why they cannot be otherwise.
    fn take(&mut self, page: u64, count: u64) -> Result<(), String> {
        let end = page.checked_add(count).filter(|end| *end <= self.end && page >= META_PAGES);
        let Some(end) = end else { return Err(format!("page {page} is not in the file")) };
        for page in page..end {
            if self.used.set(page) {
                return Err(format!("page {page} is used twice"));
            }
            self.used_count += 1;
        }
        Ok(())
    }

    fn fault(&mut self, page: u64, what: String, keys: Option<(Vec<u8>, Option<Vec<u8>>)>) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { page, what, keys });
        }
    }
}

/// Whether the pages of a value begin as they must: what LMDB reads when it deletes one.
pub(super) fn is_value_whole(pages: &Pages, page: u64, bytes: usize) -> bool {
    let mut head = [0; PAGE_HEADER_BYTES];
    pages.read(page, &mut head) && super::pages::begins_value(&head, page, bytes, pages.page_bytes)
}

/// LMDB's order of keys.
fn compare(is_free: bool, a: &[u8], b: &[u8]) -> Ordering {
    // The list of free pages is sorted by number; "before all" is an empty key.
    if is_free { free_key(a).cmp(&free_key(b)) } else { a.cmp(b) }
}

/// A bit for each page.
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u64) -> Self {
        // At most what the file has pages: 32 KiB for each GiB.
        Self(vec![0; usize::try_from(count.div_ceil(64)).unwrap_or(0)])
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// Sets a bit and says whether it was set before; true as well where there is none.
    fn set(&mut self, at: u64) -> bool {
        let Some(word) = usize::try_from(at / 64).ok().and_then(|word| self.0.get_mut(word)) else { return true };
        let was = *word >> (at % 64) & 1 == 1;
        *word |= 1 << (at % 64);
        was
    }
}
