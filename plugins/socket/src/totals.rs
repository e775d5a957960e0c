//! Running totals per entity. Metrics without a type are set, not added to, so their sums must be
//! kept here; they survive a reload and a restart by the snapshot, whose bytes are little-endian
//! words: the entity, then its totals.

use inspector_sdk::map::Map;
use inspector_sdk::{EntityId, Error};

/// Totals of one entity.
pub type Row = [u64; 4];
/// Words of one entity in a snapshot.
const WORDS: usize = 5;
/// More entities than a node has at a time.
const CROWD: usize = 4_096;

/// The totals of all entities.
#[derive(Debug, Default)]
pub struct Totals {
    rows: Map<EntityId, Kept>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    row: Row,
    /// Not published as it is now.
    changed: bool,
}

impl Totals {
    /// Adds to one total.
    pub fn add(&mut self, entity: EntityId, which: usize, n: u64) {
        let kept = self.rows.entry(entity).or_default();
        kept.row[which] += n;
        kept.changed = true;
    }

    /// Starts entities at zero, unless they have totals already.
    pub fn start(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.rows.entry(*entity).or_insert(Kept { changed: true, ..Kept::default() });
        }
    }

    /// Takes those that changed since the last time.
    pub fn changed(&mut self) -> impl Iterator<Item = (EntityId, Row)> {
        let changed = self.rows.iter_mut().filter(|(_, kept)| kept.changed);
        changed.map(|(entity, kept)| {
            kept.changed = false;
            (*entity, kept.row)
        })
    }

    /// Forgets all but the live ones and 0, which is "unknown", if there are too many: what comes
    /// late for a vanished entity starts it again.
    pub fn bound(&mut self, live: impl FnOnce() -> Vec<EntityId>) {
        if self.rows.len() > CROWD {
            let live = live();
            self.rows.retain(|entity, _| *entity == 0 || live.contains(entity));
        }
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.rows.retain(|entity, _| !entities.contains(entity));
    }

    /// The totals as bytes.
    pub fn save(&self) -> Vec<u8> {
        let words = self.rows.iter().flat_map(|(entity, kept)| {
            [u64::from(*entity), kept.row[0], kept.row[1], kept.row[2], kept.row[3]]
        });
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// The totals from bytes of [`Totals::save`].
    ///
    /// # Errors
    /// Bytes that are not whole rows.
    pub fn restore(state: &[u8]) -> Result<Self, Error> {
        let (words, rest) = state.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (rows, more) = words.as_chunks::<WORDS>();
        if !rest.is_empty() || !more.is_empty() {
            return Err(Error::new("invalid", format!("{} bytes are no totals", state.len())));
        }
        let row = |[entity, row @ ..]: &[u64; WORDS]| {
            Some((EntityId::try_from(*entity).ok()?, Kept { row: *row, changed: true }))
        };
        Ok(Self { rows: rows.iter().filter_map(row).collect() })
    }
}
