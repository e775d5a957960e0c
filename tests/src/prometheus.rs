//! A real Prometheus that scrapes the agent, because only a scrape proves that a page is valid.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::wait;

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    at: SocketAddr,
    child: Child,
    _data: TempDir,
}

impl Prometheus {
    /// Starts a server that scrapes `target` every second.
    ///
    /// # Errors
    /// If Debian's `prometheus` is not installed or does not start.
    pub fn scraping(target: SocketAddr) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let config = data.path().join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs:\n- {{job_name: inspector, static_configs: [{{targets: ['{target}']}}]}}\n"
            ),
        )?;
        // It cannot tell which port it was given for port 0, so it gets one that is free now.
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={at}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start `prometheus`; run `make setup`")?;
        let server = Self { at, child, _data: data };
        wait::until("Prometheus to be ready", || {
            http::get(at, "/-/ready", "*/*").is_ok_and(|answer| answer.status == 200).then_some(())
        })?;
        Ok(server)
    }

    /// The result vector of a PromQL query.
    ///
    /// # Errors
    /// If Prometheus refuses the query.
    pub fn query(&self, promql: &str) -> Result<Vec<Value>> {
        let encoded: String = promql.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut answer = http::get_json(self.at, &format!("/api/v1/query?query={encoded}"))?;
        ensure!(answer["status"] == "success", "{promql}: {answer}");
        serde_json::from_value(answer["data"]["result"].take()).context("a query without a vector")
    }

    /// Its only scrape target, as `/api/v1/targets` shows it.
    ///
    /// # Errors
    /// If there is none.
    pub fn target(&self) -> Result<Value> {
        let targets = http::get_json(self.at, "/api/v1/targets")?;
        targets["data"]["activeTargets"].get(0).cloned().context("Prometheus has no target yet")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
