//! Redis as children: one server, a master under Sentinel, a Cluster, independent servers.

mod cluster;
mod redlock;
mod sentinel;
mod server;

pub use cluster::RedisCluster;
pub use redlock::RedisRedlock;
pub use sentinel::RedisSentinel;
pub use server::Redis;
