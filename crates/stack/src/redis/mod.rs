//! Redis as children: one server, a master under Sentinel, a Cluster.

mod cluster;
mod sentinel;
mod server;

pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;
pub use server::Redis;
