//! Memory from the kernel: the allocator.
//!
//! Small blocks are powers of two, cut from chunks, and wait in a list of their size to be used again; large ones are
//! mappings of their own, which go back to the kernel and grow by having their pages moved. So the memory of a process that
//! lives for a day is bounded by the most that it ever held at once.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{null_mut, with_exposed_provenance_mut};

use super::sys::{BestEffort, call};

/// The smallest block; also what every block is aligned to.
const SMALLEST: usize = 16;

/// Sizes of small blocks: 16 bytes to 32 KiB.
const SIZES: usize = 12;

const LARGEST: usize = SMALLEST << (SIZES - 1);

/// What is asked of the kernel at once. Pages that were never touched cost nothing.
const CHUNK: usize = 256 * 1024;

/// What a mapping is aligned to, everywhere.
const PAGE: usize = 4096;

const PROT_READ_WRITE: i32 = 1 | 2;
const MAP_PRIVATE_ANONYMOUS: i32 = 0x02 | 0x20;
const MREMAP_MAYMOVE: i32 = 1;

/// The allocator.
pub(crate) struct Memory(UnsafeCell<Heap>);

// SAFETY: the helper has one thread, and no signal handler.
unsafe impl Sync for Memory {}

struct Heap {
    /// What is left of the newest chunk.
    rest: *mut u8,
    left: usize,
    /// For each size, the first block that waits; each block holds the address of the next.
    waiting: [*mut u8; SIZES],
}

impl Memory {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(Heap { rest: null_mut(), left: 0, waiting: [null_mut(); SIZES] }))
    }
}

/// Which list a layout's blocks are in; none for a mapping of its own.
fn size_class(layout: Layout) -> Option<usize> {
    if layout.size() > LARGEST || layout.align() > SMALLEST {
        return None;
    }
    let units = layout.size().div_ceil(SMALLEST).max(1).next_power_of_two();
    usize::try_from(units.trailing_zeros()).ok()
}

impl Heap {
    unsafe fn take(&mut self, class: usize) -> *mut u8 {
        let Some(first) = self.waiting.get_mut(class) else { return null_mut() };
        let block = *first;
        if !block.is_null() {
            // SAFETY: a block that waits holds the address of the next, and nobody else uses it.
            *first = unsafe { block.cast::<*mut u8>().read() };
            return block;
        }
        let size = SMALLEST << class;
        if self.left < size {
            let chunk = map(CHUNK);
            if chunk.is_null() {
                return null_mut();
            }
            (self.rest, self.left) = (chunk, CHUNK);
        }
        let block = self.rest;
        // SAFETY: at least `size` bytes are left there.
        self.rest = unsafe { block.add(size) };
        self.left -= size;
        block
    }

    unsafe fn give_back(&mut self, class: usize, block: *mut u8) {
        let Some(first) = self.waiting.get_mut(class) else { return };
        // SAFETY: the block is at least as large as an address, aligned to 16 bytes, and nobody's any more.
        unsafe { block.cast::<*mut u8>().write(*first) };
        *first = block;
    }
}

// SAFETY: a block is as large and as aligned as asked, and nobody else's until it is given back.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size_class(layout) {
            // SAFETY: one thread, and nothing in there allocates, so this is the only reference.
            Some(class) => unsafe { (*self.0.get()).take(class) },
            None if layout.align() <= PAGE => map(layout.size()),
            None => null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { self.alloc(layout) };
        // A new mapping is zero already.
        if !block.is_null() && size_class(layout).is_some() {
            // SAFETY: the block is that large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_class(layout) {
            // SAFETY: as in `alloc`; the block came from there.
            Some(class) => unsafe { (*self.0.get()).give_back(class, block) },
            // SAFETY: the mapping came from `alloc` and is nobody's any more.
            None => unsafe { call!(MUNMAP, block, layout.size()) }.best_effort(),
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        match (size_class(layout), size_class(wanted)) {
            (Some(old), Some(new)) if old == new => block,
            (None, None) => {
                // SAFETY: the mapping came from `alloc`; its pages are moved where there is room for all.
                unsafe { call!(MREMAP, block, layout.size(), size, MREMAP_MAYMOVE) }
                    .map_or(null_mut(), with_exposed_provenance_mut)
            }
            _ => {
                // SAFETY: the caller's promise; both blocks are as large as their layouts say.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

fn map(size: usize) -> *mut u8 {
    // SAFETY: new pages where the kernel likes; nothing that exists is touched.
    unsafe { call!(MMAP, 0_usize, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0_usize) }
        .map_or(null_mut(), with_exposed_provenance_mut)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn sizes_have_their_lists() {
        let class = |size, align| size_class(Layout::from_size_align(size, align).unwrap());
        let table = [
            ((1, 1), Some(0)),
            ((16, 16), Some(0)),
            ((17, 1), Some(1)),
            ((LARGEST - 1, 8), Some(SIZES - 1)),
            ((LARGEST, 8), Some(SIZES - 1)),
            ((LARGEST + 1, 8), None),
            ((16, 32), None),
        ];
        for ((size, align), expected) in table {
            assert_eq!(class(size, align), expected, "{size} bytes aligned to {align}");
        }
    }

    #[test]
    fn a_block_given_back_is_used_again() {
        let memory = Memory::new();
        // SAFETY: blocks are used as large as asked, and given back once.
        unsafe {
            let first = memory.alloc(layout(100));
            let second = memory.alloc(layout(100));
            assert!(!first.is_null() && first != second);
            memory.dealloc(first, layout(100));
            assert_eq!(memory.alloc(layout(128)), first);
            memory.dealloc(second, layout(100));
            for size in (0..100_000).map(|round| 65 + round % 64) {
                let again = memory.alloc(layout(size));
                assert_eq!(again, second);
                memory.dealloc(again, layout(size));
            }
        }
    }

    #[test]
    fn blocks_do_not_overlap() {
        let memory = Memory::new();
        let sizes = [1, 16, 40, 5000, LARGEST, LARGEST + 1, 1 << 20];
        // SAFETY: blocks are used as large as asked, and given back once.
        unsafe {
            let blocks: Vec<_> = (0_u8..70)
                .map(|mark| {
                    let layout = layout(sizes[usize::from(mark) % sizes.len()]);
                    let block = memory.alloc(layout);
                    assert!(block.addr().is_multiple_of(SMALLEST));
                    block.write_bytes(mark, layout.size());
                    (mark, block, layout)
                })
                .collect();
            for (mark, block, layout) in blocks {
                let bytes = core::slice::from_raw_parts(block, layout.size());
                assert!(bytes.iter().all(|byte| *byte == mark), "{mark}");
                memory.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn a_block_that_grows_and_shrinks_keeps_its_bytes() {
        let memory = Memory::new();
        let sizes = [1, 16, 17, 1000, LARGEST, LARGEST + 1, 3 << 20, 1 << 20, LARGEST, 100, 10];
        // SAFETY: the block is used as large as asked, and given back once.
        unsafe {
            let mut held = layout(1);
            let mut block = memory.alloc(held);
            block.write(7);
            for size in sizes {
                block = memory.realloc(block, held, size);
                let kept = held.size().min(size);
                held = layout(size);
                let bytes = core::slice::from_raw_parts(block, kept);
                assert!(bytes.iter().all(|byte| *byte == 7), "{size}");
                block.write_bytes(7, size);
            }
            memory.dealloc(block, held);
        }
    }

    #[test]
    fn memory_asked_for_as_zero_is_zero() {
        let memory = Memory::new();
        // SAFETY: blocks are used as large as asked, and given back once.
        unsafe {
            for size in [64, 1 << 20] {
                let used = memory.alloc(layout(size));
                used.write_bytes(1, size);
                memory.dealloc(used, layout(size));
                let zero = memory.alloc_zeroed(layout(size));
                assert!(core::slice::from_raw_parts(zero, size).iter().all(|byte| *byte == 0), "{size}");
                memory.dealloc(zero, layout(size));
            }
        }
    }
}
