//! The two words that a probe's programs and the reader share by memory mapping, so that going to
//! sleep costs no system call per probe.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// One page is the least that can be mapped; the words are at its start.
const LENGTH: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// `struct control` of record.h.
#[repr(C)]
struct Shared {
    asleep: AtomicU32,
    epoch: AtomicU32,
}

/// A mapped `control` map.
pub struct Control {
    page: NonNull<Shared>,
}

// SAFETY: the page is reached through atomics only, and is unmapped only on drop.
unsafe impl Send for Control {}

impl Control {
    /// Maps the `control` array of one object.
    ///
    /// # Errors
    ///
    /// The error of `mmap`.
    pub fn map(fd: impl AsFd) -> io::Result<Control> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe { mmap(None, LENGTH, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Control { page: page.cast() })
    }

    /// Asks the programs for a wake-up by their next record, or spares them from it.
    pub fn set_asleep(&self, asleep: bool) {
        self.shared().asleep.store(u32::from(asleep), Ordering::SeqCst);
    }

    /// The epoch of the sums that are being added to.
    pub fn epoch(&self) -> u16 {
        // It only ever is 0 or 1.
        self.shared().epoch.load(Ordering::Acquire) as u16
    }

    /// Starts the other epoch.
    pub fn flip_epoch(&self) {
        self.shared().epoch.fetch_xor(1, Ordering::AcqRel);
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped for as long as `self` lives, page-aligned, larger than `Shared`, and
        // shared with the kernel through atomics only.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference to it outlives `self`.
        let _ = unsafe { munmap(self.page.cast(), LENGTH.get()) };
    }
}
