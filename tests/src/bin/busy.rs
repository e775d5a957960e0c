//! A process that holds what the tests of `fd` and `io` count: `busy FILES SOCKETS [share|disk]`.
//!
//! It opens that many, writes [`WRITES`] times, starts threads, which share all of it, and with
//! `share` a process with the same table of descriptors; with `disk` it writes and reads a file in
//! the working directory until it ends. Then it says how many it has open and waits for the end of
//! its standard input.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

/// Calls of `write`, all by the first thread.
const WRITES: usize = 1000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| {
        args.get(at).context("usage: busy FILES SOCKETS [share|disk]")?.parse::<u32>().map_err(Into::into)
    };
    let (files, sockets): (Result<u32>, Result<u32>) = (number(1), number(2));
    let files = (0..files?).map(|_| File::create("/dev/null")).collect::<Result<Vec<_>, _>>()?;
    let sockets = (0..sockets?).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    if let Some(mut file) = files.first() {
        (0..WRITES).try_for_each(|_| file.write_all(b"x"))?;
    }
    for _ in 0..5 {
        std::thread::spawn(std::thread::park);
    }
    match args.get(3).map(String::as_str) {
        Some("share") => share()?,
        Some("disk") => {
            let file = tempfile::tempfile_in(".")?;
            std::thread::spawn(move || use_disk(&file));
        }
        _ => {}
    }
    // One of them is the directory that is being read.
    println!("{}", std::fs::read_dir("/proc/self/fd")?.count() - 1);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop((files, sockets));
    Ok(())
}

/// Writes to the disk, and reads from it what the page cache was told to forget.
fn use_disk(file: &File) -> std::io::Result<()> {
    let mut block = [7; 1 << 16];
    loop {
        file.write_all_at(&block, 0)?;
        file.sync_data()?;
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        file.read_exact_at(&mut block, 0)?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Starts a process that has this one's table of descriptors and ends with it.
fn share() -> Result<()> {
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: without a new stack this is fork, but for the descriptors. The child makes two
    // system calls, which need no lock that another thread might have held.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if Errno::result(pid)? == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }
    Ok(())
}
