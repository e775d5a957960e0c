//! Where a guest's log lines, stdout and stderr go: the host's log, rate-limited per plugin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::text::escape::admit;

/// Lines per second that one plugin may log on average.
const LINES_PER_SECOND: f64 = 20.0;
/// Lines it may log at once.
const BURST: f64 = 50.0;
/// A longer line of its log is cut, one of its output goes on in the next.
const LINE_BYTES: usize = 2048;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

/// The log of one plugin.
#[derive(Debug, Clone)]
pub(super) struct GuestLog {
    plugin: Arc<str>,
    bucket: Arc<Mutex<Bucket>>,
}

impl GuestLog {
    pub(super) fn new(plugin: Arc<str>) -> Self {
        let bucket = Bucket { tokens: BURST, filled: Instant::now(), suppressed: 0 };
        Self { plugin, bucket: Arc::new(Mutex::new(bucket)) }
    }

    /// The most detailed level that is shown: 0 error … 4 trace.
    pub(super) fn max_level(&self) -> u8 {
        use tracing::level_filters::LevelFilter;
        match LevelFilter::current() {
            LevelFilter::OFF | LevelFilter::ERROR => 0,
            LevelFilter::WARN => 1,
            LevelFilter::INFO => 2,
            LevelFilter::DEBUG => 3,
            _ => 4,
        }
    }

    pub(super) fn write(&self, level: u8, line: &str) {
        let Some(suppressed) = self.take_token() else { return };
        let plugin = &*self.plugin;
        if suppressed > 0 {
            tracing::warn!(plugin, suppressed, "the plugin logs too much");
        }
        // Control characters would reach the operator's terminal.
        let message = admit(line.to_owned(), LINE_BYTES);
        match level {
            0 => tracing::error!(plugin, "{message}"),
            1 => tracing::warn!(plugin, "{message}"),
            2 => tracing::info!(plugin, "{message}"),
            3 => tracing::debug!(plugin, "{message}"),
            _ => tracing::trace!(plugin, "{message}"),
        }
    }

    /// Takes a token; tells how many lines were suppressed since the last one that got through.
    fn take_token(&self) -> Option<u64> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(bucket.filled).as_secs_f64() * LINES_PER_SECOND;
        bucket.tokens = (bucket.tokens + earned).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

/// A guest's stdout or stderr: whole lines go to its log.
#[derive(Debug)]
pub(super) struct LogPipe {
    log: GuestLog,
    line: Vec<u8>,
}

impl LogPipe {
    pub(super) fn new(log: GuestLog) -> Self {
        Self { log, line: Vec::new() }
    }

    fn end(&mut self) {
        if !self.line.is_empty() {
            self.log.write(2, &String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

impl OutputStream for LogPipe {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        for byte in bytes {
            if self.line.len() == LINE_BYTES || byte == b'\n' {
                self.end();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogPipe {
    async fn ready(&mut self) {}
}
