//! A server of tests that takes requests by HTTP/1.1, plain or by TLS with client certificates.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// What a client and a server of one authority know each other by, as PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority.
    pub ca: String,
    /// The client's certificate.
    pub client: String,
    /// Its key.
    pub client_key: String,
    server: Arc<ServerConfig>,
}

impl Certificates {
    /// New ones, for 127.0.0.1.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new() -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca = authority.self_signed(&key)?;
        let issuer = Issuer::new(authority, key);
        let signed = || -> Result<_> {
            let key = KeyPair::generate()?;
            Ok((CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?, key))
        };
        let ((server, server_key), (client, client_key)) = (signed()?, signed()?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.der().to_vec()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let server_key = PrivateKeyDer::try_from(server_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(server.der().to_vec())], server_key)?;
        let (client, client_key) = (client.pem(), client_key.serialize_pem());
        Ok(Self { ca: ca.pem(), client, client_key, server: Arc::new(server) })
    }
}

/// A connection.
pub trait Connection: Read + Write + Send {}

impl<S: Read + Write + Send> Connection for S {}

/// One that listens; stopped when dropped.
#[derive(Debug)]
pub struct Receiver {
    at: SocketAddr,
    is_stopped: Arc<AtomicBool>,
}

impl Receiver {
    /// Listens on a port of loopback; each connection is served by a thread of its own until that returns.
    ///
    /// # Errors
    /// If there is none.
    pub fn start(
        certificates: Option<&Certificates>,
        serve: impl Fn(&mut BufReader<Box<dyn Connection>>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let receiver = Self { at: listener.local_addr()?, is_stopped: Arc::default() };
        let (is_stopped, serve) = (Arc::clone(&receiver.is_stopped), Arc::new(serve));
        let tls = certificates.map(|certificates| Arc::clone(&certificates.server));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (tls, serve) = (tls.clone(), Arc::clone(&serve));
                // A client that goes away, or is not known, ends its own connection.
                std::thread::spawn(move || -> io::Result<()> {
                    let stream: Box<dyn Connection> = match tls {
                        None => Box::new(stream),
                        Some(tls) => {
                            let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
                            Box::new(StreamOwned::new(tls, stream))
                        }
                    };
                    serve(&mut BufReader::new(stream))
                });
            }
        });
        Ok(receiver)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.at.to_string()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.at));
    }
}

/// A request.
#[derive(Debug, Default)]
pub struct Request {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// By name in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The next one of a connection; `None` if it was closed.
    ///
    /// # Errors
    /// If it ends in the middle of one.
    pub fn read(from: &mut BufReader<Box<dyn Connection>>) -> io::Result<Option<Self>> {
        let mut request = Self::default();
        if from.read_line(&mut request.line)? == 0 {
            return Ok(None);
        }
        loop {
            let mut header = String::new();
            if from.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':') {
                request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
        from.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    /// Value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// What is asked for.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// Answers; `headers` are whole lines.
///
/// # Errors
/// If the client is gone.
pub fn answer(
    to: &mut BufReader<Box<dyn Connection>>,
    status: u16,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let to = to.get_mut();
    write!(to, "HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n", body.len())?;
    to.write_all(body)?;
    to.flush()
}
