//! Opening connections, in every topology.

use super::health;
use super::options::{Address, RedisOptions, Tls, Topology};
use crate::store::StoreError;
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
    TlsMode,
};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// A connection that many callers share.
#[derive(Clone)]
pub(super) enum SharedConnection {
    /// To one server.
    Node(MultiplexedConnection),
    /// To all nodes of a Cluster.
    Cluster(ClusterConnection),
}

/// What a connection is for.
#[derive(Clone)]
pub(super) struct Purpose {
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Where messages of channels go.
    pub messages: Option<UnboundedSender<PushInfo>>,
}

/// Certificates, read once.
#[derive(Clone)]
pub(super) struct RedisConnector {
    options: RedisOptions,
    certificates: Option<TlsCertificates>,
}

impl RedisConnector {
    /// Reads the certificates.
    pub fn new(options: RedisOptions) -> Result<RedisConnector, String> {
        let certificates = match &options.tls {
            Some(tls) => certificates(tls)?,
            None => None,
        };
        Ok(RedisConnector {
            options,
            certificates,
        })
    }

    /// The settings.
    pub fn options(&self) -> &RedisOptions {
        &self.options
    }

    /// Opens a connection; under Sentinel to the server that is master now.
    pub async fn open(&self, purpose: &Purpose) -> RedisResult<SharedConnection> {
        // Behind a host that swallows packets, every step could take its own time.
        let all = self.options.timeout.saturating_mul(4);
        match tokio::time::timeout(all, self.connect(purpose)).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect(&self, purpose: &Purpose) -> RedisResult<SharedConnection> {
        match &self.options.topology {
            Topology::Single(address) => {
                let address = match address {
                    Address::Tcp(host, port) => self.address(host, *port),
                    Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
                };
                let info = address.into_connection_info()?;
                let info = info.set_redis_settings(self.login());
                let client = match &self.certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
                    None => Client::open(info)?,
                };
                self.node(&client, purpose).await
            }
            Topology::Sentinel { sentinels, master } => {
                let client = self.sentinel(sentinels, master)?.async_get_client().await?;
                self.node(&client, purpose).await
            }
            Topology::Cluster(nodes) => {
                let client = self.cluster(nodes, purpose)?;
                Ok(SharedConnection::Cluster(
                    client.get_async_connection().await?,
                ))
            }
        }
    }

    /// Why a Cluster cannot be connected to, if the nodes that are named are none of a Cluster.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings.
    pub async fn diagnose(&self) -> Result<(), StoreError> {
        let Topology::Cluster(nodes) = &self.options.topology else {
            return Ok(());
        };
        for (host, port) in nodes {
            let single = RedisOptions {
                topology: Topology::Single(Address::Tcp(host.clone(), *port)),
                ..self.options.clone()
            };
            let single = RedisConnector {
                options: single,
                certificates: self.certificates.clone(),
            };
            let purpose = Purpose {
                timeout: self.options.timeout,
                messages: None,
            };
            let Ok(connection) = single.open(&purpose).await else {
                continue;
            };
            if let Err(error @ StoreError::Permanent(_)) =
                health::probe(connection, &self.options).await
            {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn node(&self, client: &Client, purpose: &Purpose) -> RedisResult<SharedConnection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.timeout))
            .set_response_timeout(Some(purpose.timeout));
        if let Some(messages) = &purpose.messages {
            config = config.set_push_sender(messages.clone());
        }
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(SharedConnection::Node(connection))
    }

    fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        match self.options.tls {
            None => ConnectionAddr::Tcp(host.to_owned(), port),
            Some(_) => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: false,
                tls_params: None,
            },
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default()
            .set_db(self.options.database)
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(user) = &self.options.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.options.password {
            login = login.set_password(password);
        }
        login
    }

    fn sentinel(&self, sentinels: &[(String, u16)], master: &str) -> RedisResult<SentinelClient> {
        let addresses: Vec<_> = sentinels
            .iter()
            .map(|(host, port)| self.address(host, *port))
            .collect();
        let o = &self.options;
        let mut builder =
            SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                .set_client_to_redis_protocol(ProtocolVersion::RESP3)
                .set_client_to_redis_db(o.database);
        if let Some(user) = &o.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &o.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &o.sentinel_user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &o.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if o.tls.is_some() {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()
    }

    fn cluster(&self, nodes: &[(String, u16)], purpose: &Purpose) -> RedisResult<ClusterClient> {
        let o = &self.options;
        let nodes = nodes.iter().map(|(host, port)| self.address(host, *port));
        // Few and short retries: a gateway gives up after a second or so, and asks again.
        let mut builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP3)
            .connection_timeout(o.timeout)
            .response_timeout(purpose.timeout)
            .overall_response_timeout(Some(purpose.timeout.saturating_mul(2)))
            .retries(4)
            .min_retry_wait(10)
            .max_retry_wait(200);
        if let Some(user) = &o.user {
            builder = builder.username(user);
        }
        if let Some(password) = &o.password {
            builder = builder.password(password);
        }
        if o.tls.is_some() {
            builder = builder.tls(TlsMode::Secure);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        if let Some(messages) = &purpose.messages {
            builder = builder.push_sender(messages.clone());
        }
        builder.build()
    }
}

fn certificates(tls: &Tls) -> Result<Option<TlsCertificates>, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let root_cert = tls.ca.as_deref().map(read).transpose()?;
    let client_tls = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(certificate)?,
            client_key: read(key)?,
        }),
        _ => None,
    };
    Ok(
        (root_cert.is_some() || client_tls.is_some()).then_some(TlsCertificates {
            client_tls,
            root_cert,
        }),
    )
}

/// The error for a connection that is not there.
pub(super) fn closed() -> RedisError {
    RedisError::from((ErrorKind::Io, "the store is closed"))
}
