//! The product as its users see it: a kernel lab that makes real faults, and a harness that runs
//! the real binary against them.
//!
//! - [`lab`]: network namespaces, links, firewall rules and faults.
//! - [`agent`]: one running `inspector serve`, with its log.
//! - [`exam`]: what the product concludes of the faults of the lab, and whether it is right.
//! - [`apiserver`]: a strict Kubernetes API server with failures by script.
//! - [`http`]: what a client of the agent's two servers receives.
//! - [`scrape`]: the samples of one `/metrics` page.
//! - [`prometheus`]: a real Prometheus that scrapes the agent.
//! - [`nobody`]: a user without privileges who runs the binary.
//! - [`plugins`]: components to run in it, good and hostile ones.
//! - [`golden`]: files that outputs are compared with.
//! - [`imports`]: the import rules of the host crate, as a checker of source text.
//! - [`wait`]: conditions with a deadline; nothing here sleeps for luck.
//!
//! Everything needs root, and says so instead of skipping: a skipped kernel test proves nothing.

pub mod agent;
pub mod apiserver;
pub mod exam;
pub mod golden;
pub mod http;
pub mod imports;
pub mod lab;
pub mod loki;
pub mod nobody;
pub mod otlp;
pub mod plugins;
pub mod prometheus;
pub mod receiver;
pub mod scrape;
pub mod wait;
