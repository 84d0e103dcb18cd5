//! The program's heap: blocks are kept in lists by size, and go back there. Runs anywhere.
//!
//! A command lives for milliseconds and asks for thousands of blocks, nearly all of them small. To keep them fit for a
//! long life, by splitting and merging, was a third of its instructions in the C library's malloc(3). Here a block keeps
//! its size for good: it is cut once, and taken from a list and put back there in a few instructions. What is large, and
//! what the blocks are cut from, is the C library's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// What every block is aligned to, as with malloc(3).
const ALIGNMENT: usize = 16;

/// Every multiple of the alignment up to 128, then four sizes to each doubling, up to 32 KiB.
const SIZES: usize = 40;

/// What blocks are cut from, at a time.
const SLAB: usize = 64 << 10;

pub struct Heap {
    /// For each size the first block that was given back. It begins with the address of the next one.
    lists: [Cell<*mut u8>; SIZES],
    /// What has not been cut yet.
    uncut: Cell<*mut u8>,
    left: Cell<usize>,
}

// SAFETY: nobody shares it. The program has a single thread, without which launch/spawn.rs makes no process.
unsafe impl Sync for Heap {}

/// A list, and the size of the blocks in it.
struct List<'a> {
    first: &'a Cell<*mut u8>,
    size: usize,
}

impl Heap {
    pub const fn new() -> Heap {
        Heap {
            lists: [const { Cell::new(null_mut()) }; SIZES],
            uncut: Cell::new(null_mut()),
            left: Cell::new(0),
        }
    }

    /// None for what is left to the C library.
    fn list(&self, size: usize, alignment: usize) -> Option<List<'_>> {
        if alignment > ALIGNMENT {
            return None;
        }
        let last = size - 1;
        let doubling = (last | 127).ilog2();
        let step = doubling - 2;
        let first = self.lists.get((last >> step) + 4 * (doubling as usize - 6))?;
        Some(List { first, size: ((last >> step) + 1) << step })
    }

    fn cut(&self, size: usize) -> *mut u8 {
        if self.left.get() < size {
            // The rest of the old slab is smaller than one block, and is lost.
            // SAFETY: the size is not zero.
            let slab = unsafe { System.alloc(Layout::new::<[u128; SLAB / ALIGNMENT]>()) };
            if slab.is_null() {
                return slab;
            }
            self.uncut.set(slab);
            self.left.set(SLAB);
        }
        let block = self.uncut.get();
        self.uncut.set(block.wrapping_add(size));
        self.left.set(self.left.get() - size);
        block
    }
}

// SAFETY: a block is in one hand or in one list, and all in a list are of its size, which follows from the layout.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(list) = self.list(layout.size(), layout.align()) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        let block = list.first.get();
        if block.is_null() {
            return self.cut(list.size);
        }
        // SAFETY: `dealloc` has written there.
        list.first.set(unsafe { block.cast::<*mut u8>().read() });
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(list) = self.list(layout.size(), layout.align()) else {
            // SAFETY: the same layout was not ours in `alloc` either.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: the smallest block has room for an address, and this one is nobody's any more.
        unsafe { block.cast::<*mut u8>().write(list.first.get()) };
        list.first.set(block);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, new) = (self.list(layout.size(), layout.align()), self.list(size, layout.align()));
        match (old, new) {
            (Some(old), Some(new)) if old.size == new.size => return block,
            // SAFETY: the same layout was not ours in `alloc` either.
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            _ => {}
        }
        // SAFETY: the caller's promise for `size`.
        let layout_of_new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not zero.
        let moved = unsafe { self.alloc(layout_of_new) };
        if !moved.is_null() {
            // SAFETY: both are as long, and apart from each other.
            unsafe { moved.copy_from_nonoverlapping(block, layout.size().min(size)) };
            // SAFETY: it was the caller's, with this layout.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGNMENT).unwrap()
    }

    /// A block with `filling` in each of its bytes.
    fn take(heap: &Heap, size: usize, filling: u8) -> *mut u8 {
        // SAFETY: no size here is zero.
        let block = unsafe { heap.alloc(layout(size)) };
        assert!(!block.is_null() && block.addr().is_multiple_of(ALIGNMENT));
        // SAFETY: it is as long.
        unsafe { block.write_bytes(filling, size) };
        block
    }

    fn holds(block: *mut u8, size: usize, filling: u8) -> bool {
        // SAFETY: `take` has made and filled it.
        unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|byte| *byte == filling)
    }

    #[test]
    fn every_small_size_has_a_list_of_blocks_that_are_hardly_larger() {
        let heap = Heap::new();
        let (mut lists, mut before) = (0, 0);
        for size in 1..=32768 {
            let list = heap.list(size, ALIGNMENT).unwrap();
            lists += usize::from(list.size != before);
            before = list.size;
            assert!(std::ptr::eq(list.first, &heap.lists[lists - 1]), "{size}");
            assert!(list.size >= size && list.size.is_multiple_of(ALIGNMENT), "{size}: {}", list.size);
            assert!(list.size - size < ALIGNMENT.max(size / 4), "{size}: {}", list.size);
        }
        assert_eq!(lists, SIZES);
        assert!(heap.list(32769, ALIGNMENT).is_none() && heap.list(8, 2 * ALIGNMENT).is_none());
    }

    #[test]
    fn blocks_are_apart_from_each_other_and_are_used_again() {
        let heap = Heap::new();
        let sizes = || (1..=40_000).step_by(77);
        let fill = || sizes().map(|size| take(&heap, size, size as u8)).collect::<Vec<_>>();
        let blocks = fill();
        for (block, size) in blocks.iter().zip(sizes()) {
            assert!(holds(*block, size, size as u8), "{size}");
            // SAFETY: it is from this heap, with this layout.
            unsafe { heap.dealloc(*block, layout(size)) };
        }
        let left = heap.left.get();
        let again = fill();
        assert!(again.iter().zip(sizes()).all(|(block, size)| holds(*block, size, size as u8)));
        assert_eq!(heap.left.get(), left);
    }

    #[test]
    fn a_block_keeps_its_content_whatever_size_it_is_given() {
        let heap = Heap::new();
        let (mut block, mut size) = (take(&heap, 10, 7), 10);
        for (next, stays) in
            [(16, true), (17, false), (32_768, false), (32_769, false), (90_000, false), (33, false)]
        {
            // SAFETY: it is from this heap, with this layout.
            let moved = unsafe { heap.realloc(block, layout(size), next) };
            assert!(holds(moved, 10, 7), "{size} to {next}");
            assert!(!stays || moved == block, "{size} to {next}");
            (block, size) = (moved, next);
        }
    }
}
