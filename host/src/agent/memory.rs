//! How much free memory glibc's allocator keeps for itself.

/// Blocks of at least this size are mapped one by one, and go back to the kernel when they are freed.
const MAPPED: i32 = 1 << 20;
/// Number of heaps: one for each of thirty threads would keep the largest block that it ever had.
const HEAPS: i32 = 2;

/// To be called before the threads start. Of its own accord glibc stops mapping blocks of a size that was
/// freed once, so each thread that renders a scrape of 13 MiB would keep that much for ever.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator; no other thread runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED);
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives back what is free: 15 MB that the kernel's types took while loading, and what compiling took.
pub(super) fn return_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: trims free memory only, under the allocator's own locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
