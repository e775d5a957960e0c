//! What a question is answered from: the facts of a window of time, with the kernel's names, and which
//! entity has which address.
//!
//! Conversations that are translated are here as they arrive at who answers them, so that what its client
//! suffers and what stops it there are of one conversation; not where somebody observes both, since an answer
//! that comes past the translation is a fault. Queries for names stay as they were sent.
//!
//! Nothing is concluded here. Facts of all entities are here, also where a question is about one:
//! the cause of what it suffers may sit in another.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use inspector_sdk::entities::{self, Entity};
use inspector_sdk::kernel::{self, Symbol};
use inspector_sdk::map::Map;
use inspector_sdk::probes::drop_reason::{self, Circumstances, DropReason};
use inspector_sdk::{EntityId, Timestamp};

use crate::command::word;
use crate::conversations::Conversations;
use crate::fact::{Amount, Drop, Flow, Key, Reset, Segment, What};
use crate::readings::{Reading, Rows};
use crate::translation::View;

/// The facts of a window.
#[derive(Debug, Default)]
pub struct Window {
    /// Now, as the question says.
    pub now: Timestamp,
    /// Packets dropped, noise among them.
    pub drops: Vec<Dropped>,
    /// Resets sent from here.
    pub resets: Vec<ResetSent>,
    /// DNS queries and answers that did not get here: whose query has no answer is not known then.
    pub lost_dns: u64,
    /// Everything else, in a fixed order.
    others: Vec<(Key, Amount)>,
    /// Where conversations stand in each of the three.
    by_drop: Conversations,
    by_reset: Conversations,
    by_other: Conversations,
    /// Both by column and entity, in order.
    counters: Rows,
    gauges: Rows,
    entities: Map<EntityId, Entity>,
    owners: Map<IpAddr, Vec<EntityId>>,
    gone: Vec<EntityId>,
    translations: View,
}

/// Packets dropped for one reason in one function.
#[derive(Debug, Clone)]
pub struct Dropped {
    /// The kernel's reason, e.g. `NETFILTER_DROP`.
    pub reason: Rc<str>,
    /// What the reason means; `None` if the kernel is newer than the table.
    pub meaning: Option<&'static DropReason>,
    /// The function, e.g. `nft_do_chain`.
    pub symbol: Rc<Symbol>,
    /// Address of the call in it.
    location: u64,
    /// Where.
    pub entity: EntityId,
    /// Between whom.
    pub flow: Flow,
    /// How many; the values are lengths.
    pub amount: Amount,
    /// Ethernet protocol.
    pub ethertype: u16,
    /// What the segment was.
    pub segment: Segment,
    /// The frame was for a multicast or the broadcast address.
    pub is_multicast: bool,
    /// Nobody misses it.
    pub is_noise: bool,
}

/// Resets sent for one reason.
#[derive(Debug, Clone)]
pub struct ResetSent {
    /// The kernel's reason; empty on kernels before 6.10, which give none.
    pub reason: Rc<str>,
    /// Where.
    pub entity: EntityId,
    /// From its sender to the peer.
    pub flow: Flow,
    /// How many.
    pub amount: Amount,
    /// The segment that provoked it.
    pub segment: Segment,
    /// A socket was involved.
    pub with_socket: bool,
    /// Its state (`TCP_*`).
    pub state: u8,
}

impl Window {
    /// Names and sorts the facts of a window.
    pub fn new(
        now: Timestamp,
        mut facts: Vec<(Key, Amount)>,
        (counters, gauges): (Rows, Rows),
        translations: View,
    ) -> Self {
        let count = |is: fn(&What) -> bool| facts.iter().filter(|(key, _)| is(&key.what)).count();
        let drops = Vec::with_capacity(count(|what| matches!(what, What::Drop(_))));
        let resets = Vec::with_capacity(count(|what| matches!(what, What::ResetSent(_))));
        let mut named = Self { now, drops, resets, counters, gauges, translations, ..Self::default() };
        // Those that are there come first, so that none that is gone keeps an address from its heir.
        entities::all().into_iter().for_each(|entity| named.know(entity, true));
        facts.iter().for_each(|(key, _)| named.know(key.entity, false));
        named.say_as_it_arrives(&mut facts);
        facts.retain(|(Key { entity, what, flow }, amount)| match *what {
            What::Drop(drop) => {
                named.drops.push(Dropped::new(*entity, *flow, *amount, drop));
                false
            }
            What::ResetSent(reset) => {
                named.resets.push(ResetSent::new(*entity, *flow, *amount, reset));
                false
            }
            _ => true,
        });
        facts.shrink_to_fit();
        named.others = facts;
        // Ties between findings do not depend on numbers that differ by kernel.
        named.drops.sort_by_key(|drop| (drop.entity, drop.amount.first, drop.flow, drop.location));
        named.resets.sort_by_key(|reset| (reset.entity, reset.amount.first, reset.flow));
        named.others.sort_by_key(|(key, amount)| (key.entity, amount.first, key.flow));
        named.by_drop = Conversations::of_flows(named.drops.iter().map(|drop| &drop.flow));
        named.by_reset = Conversations::of_flows(named.resets.iter().map(|reset| &reset.flow));
        named.by_other = Conversations::of_facts(named.others.iter().map(|(key, _)| key));
        named
    }

    /// Changes the flows of what is translated.
    fn say_as_it_arrives(&self, facts: &mut [(Key, Amount)]) {
        let as_it_arrives = |key: &Key| self.as_it_arrives(key.what, key.flow).map(|flow| (key.entity, flow));
        let arriving: BTreeSet<_> = facts.iter().filter_map(|(key, _)| as_it_arrives(key)).collect();
        // Who observes both has it translated by nobody on the way back, which is the fault.
        let ends = |(key, _): &(Key, Amount)| [(key.entity, key.flow), (key.entity, key.flow.back())];
        let seen: BTreeSet<_> = facts.iter().flat_map(ends).filter(|end| arriving.contains(end)).collect();
        for (key, _) in facts {
            if let Some((_, arrives)) = as_it_arrives(key).filter(|end| !seen.contains(end)) {
                key.flow = arrives;
            }
        }
    }

    /// Queries for names stay as they were sent: they are told apart by server, and not by client's port.
    fn as_it_arrives(&self, what: What, flow: Flow) -> Option<Flow> {
        let is_query = matches!(what, What::DnsQuery | What::DnsUnanswered | What::DnsAnswer { .. });
        if is_query || !flow.is_known() {
            return None;
        }
        // What comes back to the client is of the same conversation.
        let back = || self.translations.arrives(&flow.back()).map(Flow::back);
        self.translations.arrives(&flow).or_else(back)
    }

    /// What a client sent, and how it arrives, of a conversation that is translated.
    pub fn translation(&self, flow: &Flow) -> Option<(Flow, Flow)> {
        let ends = |flow: Flow| Some((self.translations.sent(&flow)?, flow));
        ends(*flow).or_else(|| ends(flow.back()))
    }

    /// All conversations that one without the port of its client may be, as they arrive; itself, if it is
    /// not translated.
    pub fn behind(&self, flow: &Flow) -> Vec<Flow> {
        let behind: Vec<_> = self.translations.behind(flow).collect();
        if behind.is_empty() { vec![*flow] } else { behind }
    }

    fn know(&mut self, id: EntityId, is_live: bool) {
        if id == 0 || self.entities.contains_key(&id) {
            return;
        }
        let Some(entity) = entities::get(id) else { return };
        for ip in entity.ips.iter().filter_map(|ip| ip.split('/').next()?.parse().ok()) {
            let owners = self.owners.entry(ip).or_default();
            if is_live || owners.is_empty() {
                owners.push(id);
            }
        }
        if !is_live {
            self.gone.push(id);
        }
        self.entities.insert(id, entity);
    }

    /// Whether an entity is known from what it left behind only.
    pub fn is_gone(&self, id: EntityId) -> bool {
        self.gone.contains(&id)
    }

    /// How much a counter rose; `None` if it did not.
    pub fn counter(&self, entity: EntityId, index: u16) -> Option<Amount> {
        find(&self.counters, index, entity)
    }

    /// By how much a counter rose.
    pub fn rise(&self, entity: EntityId, index: u16) -> u64 {
        self.counter(entity, index).map_or(0, |amount| amount.count)
    }

    /// Every entity in which a counter rose, in a fixed order.
    pub fn risen(&self, index: u16) -> Vec<(EntityId, Amount)> {
        of_column(&self.counters, index).collect()
    }

    /// The values of a gauge: `count` ticks, `least`, `most`.
    pub fn gauge(&self, entity: EntityId, index: u16) -> Option<Amount> {
        find(&self.gauges, index, entity)
    }

    /// Every entity in which a gauge was not 0, in a fixed order.
    pub fn gauged(&self, index: u16) -> Vec<(EntityId, Amount)> {
        of_column(&self.gauges, index).collect()
    }

    /// Facts of one kind.
    pub fn of<'a>(&'a self, is: impl Fn(&What) -> bool + 'a) -> impl Iterator<Item = &'a (Key, Amount)> {
        self.others.iter().filter(move |(key, _)| is(&key.what))
    }

    /// Facts of one kind that concern any of some conversations, in the order of [`Window::of`].
    pub fn on<'a, 'f>(
        &'a self,
        flows: &'f [Flow],
        is: impl Fn(&What) -> bool + 'f,
    ) -> impl Iterator<Item = &'a (Key, Amount)> {
        let mut near: Vec<_> = flows.iter().flat_map(|flow| self.by_other.near(flow)).collect();
        near.sort_unstable();
        near.dedup();
        let near = near.into_iter().map(|at| &self.others[at as usize]);
        near.filter(move |(key, _)| is(&key.what) && flows.iter().any(|flow| key.concerns(flow)))
    }

    /// How often a kind of fact happened on a conversation, anywhere.
    pub fn count_on(&self, flow: &Flow, is: impl Fn(&What) -> bool) -> u64 {
        self.on(std::slice::from_ref(flow), is).map(|(_, amount)| amount.count).sum()
    }

    /// Packets of a conversation that were dropped.
    pub fn drops_on(&self, flow: &Flow) -> impl Iterator<Item = &Dropped> {
        let near = self.by_drop.near(flow).into_iter().map(|at| &self.drops[at as usize]);
        near.filter(|drop| drop.flow.meets(flow))
    }

    /// Resets of a conversation that were sent.
    pub fn resets_on(&self, flow: &Flow) -> impl Iterator<Item = &ResetSent> {
        let near = self.by_reset.near(flow).into_iter().map(|at| &self.resets[at as usize]);
        near.filter(|reset| reset.flow.meets(flow))
    }

    /// Drops that somebody may miss.
    pub fn missed(&self) -> impl Iterator<Item = &Dropped> {
        self.drops.iter().filter(|drop| !drop.is_noise)
    }

    /// Drops for one of these reasons, noise among them.
    pub fn dropped_for<'a>(&'a self, reasons: &'a [&'a str]) -> impl Iterator<Item = &'a Dropped> {
        self.drops.iter().filter(move |drop| drop.is(reasons))
    }

    /// Whether one of an entity's addresses is this one.
    pub fn owns(&self, entity: EntityId, ip: IpAddr) -> bool {
        self.owners.get(&ip).is_some_and(|owners| owners.contains(&entity))
    }

    /// Who has an address here.
    pub fn owners(&self, ip: IpAddr) -> impl Iterator<Item = EntityId> {
        self.owners.get(&ip).into_iter().flatten().copied()
    }

    /// Whether several entities here have an address, as overlapping networks do.
    pub fn is_shared(&self, ip: IpAddr) -> bool {
        self.owners.get(&ip).is_some_and(|owners| owners.len() > 1)
    }

    /// Whether anything of a conversation was observed in an entity.
    pub fn observed(&self, entity: EntityId, flow: &Flow) -> bool {
        let of_flow = std::slice::from_ref(flow);
        self.on(of_flow, |_| true).any(|(key, _)| key.entity == entity && key.flow.meets(flow))
            || self.drops_on(flow).any(|drop| drop.entity == entity)
            || self.resets_on(flow).any(|reset| reset.entity == entity)
    }

    /// Whether anybody here has an address.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.owners.contains_key(&ip)
    }

    /// An entity, as far as it is known.
    pub fn entity(&self, id: EntityId) -> Option<&Entity> {
        self.entities.get(&id)
    }

    /// Entities of which there is a fact or a name, in a fixed order.
    pub fn entities(&self) -> Vec<EntityId> {
        let mut ids: Vec<_> = self.entities.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The node itself.
    pub fn host(&self) -> EntityId {
        self.entities.values().find(|entity| entity.is_host()).map_or(0, |host| host.id)
    }

    /// Its name for people.
    pub fn name(&self, id: EntityId) -> String {
        match self.entities.get(&id) {
            Some(entity) if entity.is_host() => "the node".to_owned(),
            Some(entity) if entity.namespace.is_empty() => entity.name.clone(),
            Some(entity) => format!("{}/{}", entity.namespace, entity.name),
            None => "an unknown namespace".to_owned(),
        }
    }

    /// What stands before a command that is to run in its namespace.
    pub fn inside(&self, id: EntityId) -> String {
        match self.entities.get(&id) {
            Some(entity) if entity.kind == "netns" => format!("ip netns exec {} ", word(&entity.name)),
            Some(entity) if entity.is_host() => String::new(),
            Some(entity) if entity.kind == "pod" => {
                let (namespace, name) = (word(&entity.namespace), word(&entity.name));
                format!("kubectl debug -n {namespace} {name} --image=nicolaka/netshoot -it -- ")
            }
            Some(_) => "nsenter --net=/proc/PID/ns/net ".to_owned(),
            None => String::new(),
        }
    }
}

fn find(readings: &[(Reading, Amount)], column: u16, entity: EntityId) -> Option<Amount> {
    let at = readings.binary_search_by_key(&(column, entity), |(reading, _)| *reading).ok()?;
    Some(readings[at].1)
}

fn of_column(readings: &[(Reading, Amount)], column: u16) -> impl Iterator<Item = (EntityId, Amount)> {
    let from = readings.partition_point(|((other, _), _)| *other < column);
    let own = readings[from..].iter().take_while(move |((other, _), _)| *other == column);
    own.map(|((_, entity), amount)| (*entity, *amount))
}

impl Dropped {
    fn new(entity: EntityId, flow: Flow, amount: Amount, drop: Drop) -> Self {
        let reason = kernel::drop_reason(drop.reason);
        let symbol = kernel::symbol_at(drop.location);
        let meaning = drop_reason::find(&reason);
        let circumstances = Circumstances {
            symbol: &symbol.name,
            with_socket: drop.with_socket,
            is_multicast: flow.destination().is_multicast(),
        };
        let is_noise = meaning.is_some_and(|reason| reason.is_noise(circumstances));
        let Drop { location, ethertype, segment, is_multicast, .. } = drop;
        Self {
            reason,
            meaning,
            symbol,
            location,
            entity,
            flow,
            amount,
            ethertype,
            segment,
            is_multicast,
            is_noise,
        }
    }

    /// Whether it was dropped for one of these reasons.
    pub fn is(&self, reasons: &[&str]) -> bool {
        reasons.contains(&&*self.reason)
    }

    /// Whether the function's name has one of these in it: names differ by kernel.
    pub fn within(&self, symbols: &[&str]) -> bool {
        symbols.iter().any(|symbol| self.symbol.name.contains(symbol))
    }
}

impl ResetSent {
    fn new(entity: EntityId, flow: Flow, amount: Amount, reset: Reset) -> Self {
        let reason = reset.reason.map_or_else(|| "".into(), kernel::reset_reason);
        let Reset { segment, with_socket, state, .. } = reset;
        Self { reason, entity, flow, amount, segment, with_socket, state }
    }
}
