//! Real pods without a cluster or a registry: a containerd of our own and its CRI, spoken to as the
//! kubelet does.
//!
//! A pod here is its sandbox: the container that holds the network namespace, in the cgroup that the
//! kubelet would choose, with an address from a bridge of the CNI plugins.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::tool::run;
use crate::wait;

/// Where Debian keeps the CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// What the container runs; static, so that it needs no other file.
const BUSYBOX: &str = "/bin/busybox";

/// What is missing for pods here; `None` if they can run. `make setup` installs it.
pub fn missing() -> Option<String> {
    let needed = ["/usr/bin/containerd", "/usr/bin/ctr", "/usr/sbin/runc", BUSYBOX, "/usr/lib/cni/bridge"];
    needed.into_iter().find(|file| !std::path::Path::new(file).exists()).map(str::to_owned)
}

/// A containerd with an image of its own; stopped when dropped, with its bridge.
#[derive(Debug)]
pub struct Containerd {
    home: TempDir,
    bridge: String,
    child: Child,
}

/// A running pod sandbox; removed when dropped.
#[derive(Debug)]
pub struct Pod<'a> {
    containerd: &'a Containerd,
    id: String,
}

impl Containerd {
    /// Starts it and imports the image.
    ///
    /// # Errors
    /// If anything of [`missing`] is, or containerd does not answer.
    pub fn start() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let at = home.path().display();
        let bridge = format!("insp{}", std::process::id());
        // Each run has its own subnet, so that two of them do not meet on this machine.
        let subnet = format!("10.{}.{}.0/24", 128 + std::process::id() % 100, std::process::id() / 100 % 250);
        std::fs::create_dir(home.path().join("cni"))?;
        std::fs::write(
            home.path().join("cni/10.conflist"),
            format!(
                r#"{{"cniVersion":"0.4.0","name":"{bridge}","plugins":[{{"type":"bridge","bridge":"{bridge}","isGateway":true,
                "ipam":{{"type":"host-local","dataDir":"{at}/ipam","ranges":[[{{"subnet":"{subnet}"}}]]}}}}]}}"#
            ),
        )?;
        std::fs::write(
            home.path().join("config.toml"),
            format!(
                r#"
                version = 2
                root = "{at}/root"
                state = "{at}/state"
                disabled_plugins = ["io.containerd.internal.v1.opt"]
                [grpc]
                address = "{at}/containerd.sock"
                [plugins."io.containerd.grpc.v1.cri"]
                sandbox_image = "localhost/pause:1"
                restrict_oom_score_adj = true
                disable_tcp_service = true
                disable_apparmor = true
                [plugins."io.containerd.grpc.v1.cri".containerd]
                snapshotter = "native"
                [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "{CNI_PLUGINS}"
                conf_dir = "{at}/cni"
                "#
            ),
        )?;
        let log = std::fs::File::create(home.path().join("log"))?;
        let child = Command::new("containerd")
            .arg("-c")
            .arg(home.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let containerd = Self { home, bridge, child };
        wait::until("containerd to answer", || containerd.ctr("version").ok())
            .with_context(|| std::fs::read_to_string(containerd.file("log")).unwrap_or_default())?;
        containerd.import_image()?;
        Ok(containerd)
    }

    /// Runs a pod under a Kubernetes namespace, name and uid, as a burstable one.
    ///
    /// # Errors
    /// If containerd refuses, with what it says.
    pub fn run_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Pod<'_>> {
        let metadata = [field(1, name.as_bytes()), field(2, uid.as_bytes()), field(3, namespace.as_bytes())];
        let linux = field(1, format!("/kubepods/burstable/pod{uid}").as_bytes());
        let config = [field(1, &metadata.concat()), field(2, name.as_bytes()), field(8, &linux)];
        let answer = self.call("RunPodSandbox", &field(1, &config.concat()))?;
        // One field, the sandbox's id: its tag, its length, and 64 digits.
        let id = answer.get(2..).context("no sandbox id")?;
        Ok(Pod { containerd: self, id: String::from_utf8(id.to_vec())? })
    }

    /// One call of the runtime service: gRPC over the socket, by curl. Returns the message.
    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        let (request, answer) = (self.file("request"), self.file("answer"));
        let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        std::fs::write(&request, frame)?;
        let output = Command::new("curl")
            .args(["-sS", "-D", "-", "--http2-prior-knowledge", "--max-time", "60", "--unix-socket"])
            .arg(self.file("containerd.sock"))
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary"])
            .arg(format!("@{}", request.display()))
            .arg("-o")
            .arg(&answer)
            .arg(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .output()?;
        let headers = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        if !headers.lines().any(|line| line.trim() == "grpc-status: 0") {
            bail!("{method}: {headers}");
        }
        let answer = std::fs::read(answer)?;
        Ok(answer.get(5..).context("no answer")?.to_vec())
    }

    /// Makes an image of one file and hands it over.
    fn import_image(&self) -> Result<()> {
        let (image, layer) = (self.file("image"), self.file("layer"));
        std::fs::create_dir_all(layer.join("bin"))?;
        std::fs::create_dir(&image)?;
        std::fs::copy(BUSYBOX, layer.join("bin/busybox"))?;
        let tar = image.join("layer.tar");
        run("tar", &format!("-C {} -cf {} .", layer.display(), tar.display()))?;
        let sum = run("sha256sum", &tar.display().to_string())?;
        let digest = sum.split(' ').next().context("no digest")?;
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        std::fs::write(
            image.join("config.json"),
            format!(
                r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["{BUSYBOX}","sleep","1000000"]}},
                "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
            ),
        )?;
        let manifest =
            r#"[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]"#;
        std::fs::write(image.join("manifest.json"), manifest)?;
        let archive = self.file("image.tar");
        let parts = "manifest.json config.json layer.tar";
        run("tar", &format!("-C {} -cf {} {parts}", image.display(), archive.display()))?;
        self.ctr(&format!("-n k8s.io images import {}", archive.display())).map(drop)
    }

    /// Where it keeps the configurations of its tasks, as the agent is told with `paths.runtimes`.
    pub fn tasks(&self) -> PathBuf {
        self.file("state/io.containerd.runtime.v2.task/k8s.io")
    }

    fn ctr(&self, args: &str) -> Result<String> {
        run("ctr", &format!("-a {} {args}", self.file("containerd.sock").display()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // One that ended by itself needs no signal.
        let _: nix::Result<()> = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        drop(self.child.wait());
        // It is there only if a pod ran.
        drop(run("ip", &format!("link del {}", self.bridge)));
    }
}

impl Pod<'_> {
    /// Process id of the pod's first process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<i32> {
        let tasks = self.containerd.ctr("-n k8s.io tasks ls")?;
        let line = tasks.lines().find(|line| line.starts_with(&self.id)).context("no such task")?;
        Ok(line.split_whitespace().nth(1).context("no process id")?.parse()?)
    }

    /// Its address, as the kernel has it.
    ///
    /// # Errors
    /// If it has none.
    pub fn ip(&self) -> Result<IpAddr> {
        let shown = run("nsenter", &format!("-t {} -n ip -o -4 addr show dev eth0", self.pid()?))?;
        let address = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        Ok(address.and_then(|net| net.split('/').next()).context("no address")?.parse()?)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            if let Err(error) = self.containerd.call(method, &field(1, self.id.as_bytes())) {
                eprintln!("pod {} stays behind: {error:#}", self.id);
            }
        }
    }
}

/// A length-delimited field of a protobuf message, shorter than 16 KiB.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    match value.len() {
        short @ 0..128 => field.push(short as u8),
        long => field.extend([long as u8 & 127 | 128, (long >> 7) as u8]),
    }
    field.extend(value);
    field
}
