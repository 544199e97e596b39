//! LMDB's file format, read without LMDB: meta pages, branch and leaf pages, values on pages of their own.
//!
//! LMDB trusts its file: a wrong page number makes it abort the process or read beyond the file, which kills it. So a
//! file is looked at here before LMDB gets it, by `pread`, with every length checked. Read-only, knows nothing of what the
//! values mean. The format is that of LMDB 0.9 in the byte order and word size of this machine.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Bytes of a page number, a transaction number and a length: LMDB writes them as its machine's words.
pub(super) const WORD_BYTES: usize = size_of::<usize>();
/// Bytes of a page in front of its content: number, padding, flags, and two bounds or a count.
pub(super) const PAGE_HEADER_BYTES: usize = WORD_BYTES + 8;
/// Bytes of a node in front of its key.
const NODE_HEADER_BYTES: usize = 8;
/// Longest key.
const KEY_BYTES: usize = 511;
/// Where LMDB has no page.
const NO_PAGE: u64 = usize::MAX as u64;
/// Both meta pages.
pub(super) const META_PAGES: u64 = 2;
const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
/// Levels of a tree; LMDB's cursors hold no more.
const MOST_LEVELS: u16 = 32;

const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const META: u16 = 8;
/// A node whose value lies on pages of its own.
const BIG: u16 = 1;
/// The list of free pages is sorted by integers.
const INTEGER_KEYS: u16 = 8;

/// One tree of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: Option<u64>,
    pub(super) depth: u16,
    pub(super) branch_pages: u64,
    pub(super) leaf_pages: u64,
    pub(super) overflow_pages: u64,
    pub(super) entries: u64,
}

/// One meta page: a state of the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_bytes: usize,
    pub(super) free: Tree,
    pub(super) main: Tree,
    pub(super) last_page: u64,
    pub(super) txn: u64,
}

impl Meta {
    /// Reads the meta page with that number; what is wrong with it otherwise.
    pub(super) fn parse(page: &[u8], number: u64) -> Result<Self, String> {
        let mut words = Fields(page);
        let bad = |what: &str| Err(format!("meta page {number}: {what}"));
        let Some(head) = Head::parse(&mut words) else { return bad("it is cut off") };
        let Some((magic, version)) = words.u32().zip(words.u32()) else { return bad("it is cut off") };
        if magic != MAGIC || head.flags != META || head.page != number {
            return bad("it is none of LMDB's");
        }
        if version != DATA_VERSION {
            return bad("it is of another version of LMDB");
        }
        let parsed = || {
            let _address = words.word()?;
            let _map_bytes = words.word()?;
            let page_bytes = words.u32()?;
            let free_flags = words.u16()?;
            let free = words.tree()?;
            let main_pad = words.u32()?;
            let main_flags = words.u16()?;
            let main = words.tree()?;
            let (last_page, txn) = (words.word()?, words.word()?);
            Some((page_bytes, free_flags, free, main_pad, main_flags, main, last_page, txn))
        };
        let Some((page_bytes, free_flags, free, main_pad, main_flags, main, last_page, txn)) = { parsed }() else {
            return bad("it is cut off");
        };
        let page_bytes = page_bytes as usize;
        if !page_bytes.is_power_of_two() || !(512..=32 << 10).contains(&page_bytes) {
            return bad("its page size cannot be");
        }
        if free_flags != INTEGER_KEYS || main_flags != 0 || main_pad != 0 {
            return bad("its flags cannot be");
        }
        if free.depth > MOST_LEVELS || main.depth > MOST_LEVELS || last_page < META_PAGES - 1 {
            return bad("its sizes cannot be");
        }
        if txn != 0 && txn % META_PAGES != number {
            return bad("its transaction belongs to the other one");
        }
        Ok(Self { page_bytes, free, main, last_page, txn })
    }
}

/// What every page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    page: u64,
    flags: u16,
    /// Bounds of the free space in a tree's page.
    lower: u16,
    upper: u16,
}

impl Head {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let page = fields.word()?;
        let _pad = fields.u16()?;
        Some(Self { page, flags: fields.u16()?, lower: fields.u16()?, upper: fields.u16()? })
    }

    /// How many pages a value takes, as the first of them says.
    fn count(self) -> u64 {
        u64::from(self.lower) | u64::from(self.upper) << 16
    }
}

/// Whether `head` begins the pages of a value of `bytes` bytes at `page`.
pub(super) fn begins_value(head: &[u8], page: u64, bytes: usize, page_bytes: usize) -> bool {
    Head::parse(&mut Fields(head))
        .is_some_and(|h| h.page == page && h.flags == OVERFLOW && h.count() == value_pages(bytes, page_bytes))
}

/// Pages of a value that has its own.
pub(super) fn value_pages(bytes: usize, page_bytes: usize) -> u64 {
    (bytes + PAGE_HEADER_BYTES).div_ceil(page_bytes) as u64
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// In the leaf.
    Inline(&'a [u8]),
    /// On pages of its own, from this one on.
    Own { page: u64, bytes: usize },
}

/// What a page of a tree holds.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// Keys, the first of which means "before all", and the pages below them.
    Branch(Vec<(&'a [u8], u64)>),
    Leaf(Vec<(&'a [u8], Value<'a>)>),
}

/// Reads a page of a tree; what is wrong with it otherwise. Checks everything that the page alone can tell.
pub(super) fn content(page: &[u8], number: u64) -> Result<Content<'_>, &'static str> {
    let head = Head::parse(&mut Fields(page)).ok_or("it is cut off")?;
    if head.page != number {
        return Err("it says that it is another page");
    }
    let (lower, upper) = (usize::from(head.lower), usize::from(head.upper));
    if lower < PAGE_HEADER_BYTES || lower % 2 != 0 || lower > upper || upper > page.len() || upper % 2 != 0 {
        return Err("its bounds cannot be");
    }
    let is_leaf = match head.flags {
        LEAF => true,
        BRANCH => false,
        _ => return Err("it is no page of a tree"),
    };
    let places =
        page[PAGE_HEADER_BYTES..lower].chunks_exact(2).map(|at| usize::from(u16::from_ne_bytes([at[0], at[1]])));
    let (mut branch, mut leaf) = (Vec::new(), Vec::new());
    // Nodes fill the page from `upper` to its end without a gap, in any order.
    let mut taken = 0;
    for place in places {
        if place < upper || place % 2 != 0 {
            return Err("a node lies outside its bounds");
        }
        let node = Node::parse(page, place).ok_or("a node is cut off")?;
        let (key, rest) = node.body.split_at_checked(node.key_bytes).ok_or("a key is cut off")?;
        let mut own_bytes = 0;
        if is_leaf {
            if key.is_empty() || key.len() > KEY_BYTES {
                return Err("a key's length cannot be");
            }
            let value = match node.flags {
                0 => {
                    own_bytes = node.low as usize;
                    Value::Inline(rest.get(..own_bytes).ok_or("a value is cut off")?)
                }
                BIG => {
                    own_bytes = WORD_BYTES;
                    let page = Fields(rest).word().ok_or("a page number is cut off")?;
                    Value::Own { page, bytes: node.low as usize }
                }
                _ => return Err("a node has flags that cannot be"),
            };
            leaf.push((key, value));
        } else {
            branch.push((key, node.page()));
        }
        taken += (NODE_HEADER_BYTES + node.key_bytes + own_bytes).next_multiple_of(2);
    }
    if taken != page.len() - upper {
        return Err("its nodes do not fill it");
    }
    if branch.is_empty() && leaf.is_empty() {
        return Err("it holds nothing");
    }
    Ok(if is_leaf { Content::Leaf(leaf) } else { Content::Branch(branch) })
}

/// A node as it lies: two halves of a length or page number, flags, the key's length, then key and value.
struct Node<'a> {
    low: u32,
    flags: u16,
    key_bytes: usize,
    body: &'a [u8],
}

impl<'a> Node<'a> {
    fn parse(page: &'a [u8], place: usize) -> Option<Self> {
        let mut fields = Fields(page.get(place..)?);
        let (one, two) = (fields.u16()?, fields.u16()?);
        let (low, high) = if cfg!(target_endian = "little") { (one, two) } else { (two, one) };
        let low = u32::from(low) | u32::from(high) << 16;
        Some(Self { low, flags: fields.u16()?, key_bytes: fields.u16()?.into(), body: fields.0 })
    }

    /// The page below; with words of 64 bits the flags are its upper bits.
    fn page(&self) -> u64 {
        u64::from(self.low) | if WORD_BYTES > 4 { u64::from(self.flags) << 32 } else { 0 }
    }
}

/// The numbers in a record of the list of free pages, greatest first.
pub(super) fn free_pages(value: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
    let mut fields = Fields(value);
    let count = usize::try_from(fields.word()?).ok()?;
    let numbers = fields.0.get(..count.checked_mul(WORD_BYTES)?)?;
    Some(numbers.chunks_exact(WORD_BYTES).filter_map(|word| Fields(word).word()))
}

/// The transaction that a record of the list of free pages belongs to.
pub(super) fn free_key(key: &[u8]) -> Option<u64> {
    (key.len() == WORD_BYTES).then(|| Fields(key).word()).flatten()
}

/// The file, read page by page.
#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    pub(super) page_bytes: usize,
    /// Whole pages in the file.
    pub(super) count: u64,
    pub(super) file_bytes: u64,
}

impl Pages {
    pub(super) fn new(file: File, page_bytes: usize) -> io::Result<Self> {
        let file_bytes = file.metadata()?.len();
        Ok(Self { file, page_bytes, count: file_bytes / page_bytes as u64, file_bytes })
    }

    /// Fills `buffer` from the beginning of a page on; false if the file ends before, or the disk cannot read it.
    pub(super) fn read(&self, page: u64, buffer: &mut [u8]) -> bool {
        let Some(at) = page.checked_mul(self.page_bytes as u64) else { return false };
        self.file.read_exact_at(buffer, at).is_ok()
    }

    /// The bytes of a value on its own pages, without the header in front of it; `None` if they are not all there.
    pub(super) fn value(&self, page: u64, bytes: usize) -> Option<Vec<u8>> {
        let end = page.checked_add(value_pages(bytes, self.page_bytes))?;
        if end > self.count {
            return None;
        }
        let mut out = vec![0; bytes];
        let at = page * self.page_bytes as u64 + PAGE_HEADER_BYTES as u64;
        self.file.read_exact_at(&mut out, at).ok()?;
        Some(out)
    }
}

/// Takes numbers in the machine's byte order from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn word(&mut self) -> Option<u64> {
        self.array().map(|word| usize::from_ne_bytes(word) as u64)
    }

    /// A tree's entry in a meta page, from its depth on.
    fn tree(&mut self) -> Option<Tree> {
        let depth = self.u16()?;
        let (branch_pages, leaf_pages, overflow_pages) = (self.word()?, self.word()?, self.word()?);
        let (entries, root) = (self.word()?, self.word()?);
        let root = (root != NO_PAGE).then_some(root);
        Some(Tree { root, depth, branch_pages, leaf_pages, overflow_pages, entries })
    }
}
