//! The first instructions of the program: seal the executable before the C library has even begun, and bring in the
//! pages that it is about to write to.
//!
//! Sealing costs one extra execve(2) (see `seal.rs`), and with it a second start of the C library. On x86-64 glibc asks
//! the processor about its caches some sixty times at each start, and in a virtual machine every CPUID is a trip to the
//! hypervisor: 0.7 ms in all where this was measured, a tenth of a container's start. So the program's entry point is
//! here, and the first start ends here too.
//!
//! Nothing is set up yet: no relocation is applied, no thread-local storage, no C function can be called. The code uses
//! the stack, the registers and system calls, and nothing that would need an address written down in data; for that it
//! must be inlined, so only optimised builds have it. Whatever goes wrong is left to `seal.rs`, which runs in `main` and
//! says so.

use std::arch::{asm, naked_asm};

/// The commands whose processes a container can see. A word that is here by chance, as an option's value, costs a seal
/// that nobody needs.
static SEALED_COMMANDS: [u8; 16] = *b"create\0run\0exec\0";

/// What the kernel jumps to; `build.rs` tells the linker. The stack holds argc, then argv, then the environment.
// SAFETY: the name is ours alone.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn corten_entry() {
    naked_asm!(
        "mov rdi, rsp",
        "mov rbx, rsp",
        "and rsp, -16",
        "call {seal}",
        "mov rsp, rbx",
        // The C library registers what rdx points to at exit; the kernel leaves 0 there.
        "xor edx, edx",
        "xor ebp, ebp",
        "jmp _start",
        seal = sym seal_early,
    )
}

/// Execute ourselves from a read-only mount if the command wants it, or return to start as ever.
extern "C" fn seal_early(stack: *const usize) {
    let arguments = Words { next: stack.wrapping_add(1) };
    let mut after = arguments;
    let wanted = after.find_sealed_command();
    after.skip_to_end();
    if !wanted || is_sealed() {
        return populate();
    }
    let tree = syscall([libc::SYS_open_tree as usize, AT_FDCWD, path(), OPEN_TREE_FLAGS, 0, 0]);
    if tree < 0 {
        return;
    }
    let attributes = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    let (tree, empty) = (tree as usize, path() + OWN_EXECUTABLE.len() - 1);
    let set = [
        libc::SYS_mount_setattr as usize,
        tree,
        empty,
        libc::AT_EMPTY_PATH as usize,
        (&raw const attributes) as usize,
        size_of_val(&attributes),
    ];
    if syscall(set) == 0 {
        let (argv, environment) = (arguments.next as usize, after.next as usize);
        let flags = libc::AT_EMPTY_PATH as usize;
        syscall([libc::SYS_execveat as usize, tree, empty, argv, environment, flags]);
    }
    syscall([libc::SYS_close as usize, tree, 0, 0, 0, 0]);
}

/// Have the kernel copy all pages of initialised data in one call. The C library relocates nearly every one of them next,
/// which is a fault for each. Should the kernel refuse, the faults come.
#[inline(always)]
fn populate() {
    const PAGE: usize = 4096;
    let (first, end): (usize, usize);
    // SAFETY: two addresses that the linker defines: of the first data that is relocated, and past the last.
    unsafe {
        asm!("lea {}, [rip + __init_array_start]", "lea {}, [rip + _edata]", out(reg) first, out(reg) end);
    }
    let first = first / PAGE * PAGE;
    let length = end.next_multiple_of(PAGE).wrapping_sub(first);
    syscall([libc::SYS_madvise as usize, first, length, libc::MADV_POPULATE_WRITE as usize, 0, 0]);
}

static OWN_EXECUTABLE: [u8; 15] = *b"/proc/self/exe\0";
const AT_FDCWD: usize = libc::AT_FDCWD as usize;
const OPEN_TREE_FLAGS: usize = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;

#[inline(always)]
fn path() -> usize {
    (&raw const OWN_EXECUTABLE) as usize
}

/// Whether the mount that we run from is the detached and read-only one of one file.
#[inline(always)]
fn is_sealed() -> bool {
    // `f_flags` is the eleventh of the words of `struct statfs` (statfs(2)).
    const FLAGS: usize = 10;
    let mut status = [0_usize; 16];
    let asked = syscall([libc::SYS_statfs as usize, path(), (&raw mut status) as usize, 0, 0, 0]);
    // The kernel has written there, which the compiler cannot know.
    // SAFETY: the pointer is to a live word.
    let flags = unsafe { (&raw const status[FLAGS]).read_volatile() };
    if asked != 0 || flags & libc::ST_RDONLY as usize == 0 {
        return false;
    }
    // The root of a mount of one file is called `/`, which no file that is anywhere is.
    let mut name = [0_u8; 2];
    let ask = [libc::SYS_readlink as usize, path(), (&raw mut name) as usize, name.len(), 0, 0];
    // SAFETY: as above.
    syscall(ask) == 1 && unsafe { (&raw const name[0]).read_volatile() } == b'/'
}

/// A list of C strings that ends with a null pointer, as execve(2) lays it out.
#[derive(Clone, Copy)]
struct Words {
    next: *const usize,
}

impl Words {
    #[inline(always)]
    fn take(&mut self) -> *const u8 {
        // SAFETY: the kernel ends the list with a null pointer, past which nobody goes.
        let word = unsafe { self.next.read_volatile() };
        self.next = self.next.wrapping_add(1);
        word as *const u8
    }

    #[inline(always)]
    fn find_sealed_command(&mut self) -> bool {
        loop {
            let word = self.take();
            if word.is_null() {
                self.next = self.next.wrapping_sub(1);
                return false;
            }
            if is_sealed_command(word) {
                return true;
            }
        }
    }

    #[inline(always)]
    fn skip_to_end(&mut self) {
        while !self.take().is_null() {}
    }
}

/// Byte by byte and volatile, lest the compiler call a C function that compares.
#[inline(always)]
fn is_sealed_command(word: *const u8) -> bool {
    let (mut at, mut same) = (0, true);
    let mut command = 0;
    while command < SEALED_COMMANDS.len() {
        // SAFETY: the index is below the length.
        let wanted = unsafe { (&raw const SEALED_COMMANDS[command]).read_volatile() };
        // SAFETY: nothing past the word's own end is read, since the comparison has failed by then.
        same = same && unsafe { word.wrapping_add(at).read_volatile() } == wanted;
        (command, at) = (command + 1, at + 1);
        if wanted == 0 {
            if same {
                return true;
            }
            (at, same) = (0, true);
        }
    }
    false
}

/// A system call with its number and five arguments; a negative result is an errno.
#[inline(always)]
fn syscall(words: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: each caller passes what the call wants, and memory that lives while it runs.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") words[0] as isize => result,
            in("rdi") words[1],
            in("rsi") words[2],
            in("rdx") words[3],
            in("r10") words[4],
            in("r8") words[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
