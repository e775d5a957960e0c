//! Who is it? Names of the entities that events and series belong to.

use std::net::IpAddr;

use crate::EntityId;
pub use crate::bindings::inspector::analyzer::entities::Entity;
use crate::host::entities;

/// One entity, also one that vanished less than a minute ago.
pub fn get(id: EntityId) -> Option<Entity> {
    entities::get(id)
}

/// The entity that has an address; 0 if the host knows none.
pub fn by_ip(ip: IpAddr) -> EntityId {
    let bits = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    entities::by_ip((bits >> 64) as u64, bits as u64)
}

/// The node itself, if it is one of these.
pub fn host_among(ids: &[EntityId]) -> Option<EntityId> {
    ids.iter().copied().find(|id| get(*id).is_some_and(|entity| entity.is_host()))
}

impl Entity {
    /// Whether it is the node itself.
    pub fn is_host(&self) -> bool {
        self.kind == "host"
    }
}

/// All entities that exist now.
pub fn all() -> Vec<EntityId> {
    entities::all()
}
