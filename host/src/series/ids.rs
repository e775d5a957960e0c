//! One plugin's series, and the ids by which the plugin refers to them.
//!
//! An id is a slot and the slot's generation: removing a series ends the generation, so an id of
//! a removed series is refused and never means another one. A slot whose generations are used up
//! is never used again. What a series holds is in `family`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entities::EntityId;
use crate::series::declaration::{Decl, MetricKind};
use crate::series::family::{Family, Refused, Series, push_label};

/// Value of every label of the series that takes what is over budget.
pub const OTHER: &str = "other";

const SLOT_BITS: u32 = 20;
const MAX_SLOTS: usize = 1 << SLOT_BITS;
const LAST_GENERATION: u32 = (1 << (32 - SLOT_BITS)) - 1;

/// Why a plugin got no series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// Not as many label values as the metric has labels.
    #[error("the number of label values is not that of the declared labels")]
    Invalid,
    /// Over budget, and there is no room for an `other` series either.
    #[error("the budget of series is used up")]
    Quota,
    /// The plugin declares no such metric, or there is no such entity.
    #[error("no such metric or entity")]
    NotFound,
}

impl SeriesError {
    /// The code in the plugin contract.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Quota => "quota",
            Self::NotFound => "not-found",
        }
    }
}

/// All families and series of one plugin.
#[derive(Debug)]
pub(crate) struct Store {
    /// By family number; a number is never used again, so an old handle finds nothing there.
    families: Vec<Option<Box<Family>>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The label text of all series without labels: one, so that reading it is no cache miss.
    no_labels: Arc<str>,
    /// Live handles of the plugin's instances.
    handles: u32,
    /// The plugin does not run, so nothing of it is current.
    hidden: bool,
    /// Samples that this plugin exposes, and may expose.
    samples: u64,
    max_samples: u64,
    /// The same for all plugins together.
    all_samples: Arc<AtomicU64>,
    max_all_samples: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    generation: u32,
    /// Family number and index into its series.
    place: Option<(u32, u32)>,
}

/// A series for a label set.
pub(crate) struct Interned {
    pub(crate) id: u32,
    /// It is the `other` series, because the budget is used up.
    pub(crate) folded: bool,
}

impl Store {
    pub(crate) fn new(max_samples: u64, all_samples: Arc<AtomicU64>, max_all_samples: u64) -> Self {
        Self {
            families: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            no_labels: "".into(),
            handles: 0,
            hidden: false,
            samples: 0,
            max_samples,
            all_samples,
            max_all_samples,
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether there is no room for one more.
    pub(crate) fn is_full(&self) -> bool {
        !self.has_room(1, Reserve::Kept)
    }

    pub(crate) fn family(&self, number: u32) -> Option<&Family> {
        self.families.get(number as usize)?.as_deref()
    }

    /// Every family with its number, newest first.
    pub(crate) fn families(&self) -> impl Iterator<Item = (u32, &Family)> {
        let numbered = self.families.iter().enumerate().rev();
        numbered.filter_map(|(number, family)| Some((number as u32, family.as_deref()?)))
    }

    /// Opens a handle: a family for each declaration, with the values of one declared alike.
    pub(crate) fn open(&mut self, decls: &[Decl]) -> Vec<u32> {
        let numbers = decls.iter().map(|decl| self.acquire(decl)).collect();
        self.handles += 1;
        self.drop_unused();
        numbers
    }

    /// Closes a handle. The last one leaves its families for the plugin's next instance.
    pub(crate) fn close(&mut self, numbers: &[u32]) {
        for number in numbers {
            if let Some(Some(family)) = self.families.get_mut(*number as usize) {
                family.users = family.users.saturating_sub(1);
            }
        }
        self.handles = self.handles.saturating_sub(1);
        if self.handles > 0 {
            self.drop_unused();
        }
    }

    /// Whether the plugin does not run and nothing of it is to be shown.
    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Hides everything and forgets what was only true then: of values that are set, nobody knows
    /// the present one. What was counted goes on from where it is.
    pub(crate) fn hide(&mut self) {
        self.hidden = true;
        let is_set = |family: &Family| matches!(family.decl.kind, MetricKind::Gauge | MetricKind::Unknown);
        let set: Vec<u32> = self.families().filter(|(_, family)| is_set(family)).map(|(n, _)| n).collect();
        set.into_iter().for_each(|number| self.retain(number, |_| false));
    }

    pub(crate) fn show(&mut self) {
        self.hidden = false;
    }

    pub(crate) fn drop_all(&mut self) {
        for family in self.families.iter_mut().flatten() {
            family.users = 0;
        }
        self.drop_unused();
    }

    pub(crate) fn retain_entities(&mut self, mut keep: impl FnMut(EntityId) -> bool) {
        for number in 0..self.families.len() as u32 {
            self.retain(number, |series| keep(series.entity));
        }
    }

    /// Finds or makes the series of one label set; past the budget, the entity's `other` series.
    pub(crate) fn intern(
        &mut self,
        number: u32,
        entity: EntityId,
        values: &[String],
    ) -> Result<Interned, SeriesError> {
        let family = self.family(number).ok_or(SeriesError::NotFound)?;
        let decl = Arc::clone(&family.decl);
        if values.len() != decl.labels.len() {
            return Err(SeriesError::Invalid);
        }
        let labels = self.label_text(&decl.labels, values.iter().map(String::as_str));
        if let Some(id) = self.find(number, entity, &labels) {
            return Ok(Interned { id, folded: false });
        }
        let asked = if decl.max_series == 0 { u32::MAX } else { decl.max_series };
        let within = family.series.len() < asked as usize;
        if within && self.has_room(decl.weight(), Reserve::Kept) {
            return Ok(Interned { id: self.insert(number, entity, labels)?, folded: false });
        }
        if values.is_empty() {
            return Err(SeriesError::Quota);
        }
        let labels = self.label_text(&decl.labels, values.iter().map(|_| OTHER));
        if let Some(id) = self.find(number, entity, &labels) {
            return Ok(Interned { id, folded: true });
        }
        if !self.has_room(decl.weight(), Reserve::Used) {
            return Err(SeriesError::Quota);
        }
        Ok(Interned { id: self.insert(number, entity, labels)?, folded: true })
    }

    /// Updates one series.
    pub(crate) fn apply(&mut self, id: u32, value: f64) -> Result<(), Refused> {
        let (family, index) = self.place(id)?;
        family.update(index, value)
    }

    /// Observes a value `times` times in one histogram.
    pub(crate) fn observe(&mut self, id: u32, value: f64, times: u64) -> Result<(), Refused> {
        let (family, index) = self.place(id)?;
        family.observe(index, value, times)
    }

    /// Family of a series, and its index in there.
    fn place(&mut self, id: u32) -> Result<(&mut Family, usize), Refused> {
        let slot = self.slots.get((id as usize) & (MAX_SLOTS - 1)).ok_or(Refused::Stale)?;
        let (number, index) = slot.place.ok_or(Refused::Stale)?;
        if slot.generation != id >> SLOT_BITS {
            return Err(Refused::Stale);
        }
        let family = self.families[number as usize].as_mut().ok_or(Refused::Stale)?;
        Ok((family, index as usize))
    }

    fn acquire(&mut self, decl: &Decl) -> u32 {
        let alike = self.families().find(|(_, family)| family.decl.is_like(decl)).map(|(number, _)| number);
        let number = alike.unwrap_or_else(|| {
            self.families.push(Some(Box::new(Family::new(decl))));
            self.families.len() as u32 - 1
        });
        if let Some(family) = &mut self.families[number as usize] {
            family.users += 1;
            family.decl = Arc::new(decl.clone());
        }
        number
    }

    /// Drops families that no live handle declares.
    fn drop_unused(&mut self) {
        let unused: Vec<u32> = self.families().filter(|(_, f)| f.users == 0).map(|(n, _)| n).collect();
        for number in unused {
            self.retain(number, |_| false);
            self.families[number as usize] = None;
        }
    }

    fn find(&self, number: u32, entity: EntityId, labels: &Arc<str>) -> Option<u32> {
        let slot = *self.family(number)?.by_labels.get(&(entity, Arc::clone(labels)))?;
        Some(self.slots[slot as usize].generation << SLOT_BITS | slot)
    }

    fn label_text<'a>(&self, names: &[String], values: impl Iterator<Item = &'a str>) -> Arc<str> {
        if names.is_empty() {
            return Arc::clone(&self.no_labels);
        }
        let mut text = String::new();
        for (name, value) in names.iter().zip(values) {
            text.push(',');
            push_label(&mut text, name, value);
        }
        text.into()
    }

    fn has_room(&self, weight: u32, reserve: Reserve) -> bool {
        let allowed = |max: u64| match reserve {
            // An eighth is left for `other` series, so that every entity still gets its own.
            Reserve::Kept => max - max / 8,
            Reserve::Used => max,
        };
        let weight = u64::from(weight);
        self.samples + weight <= allowed(self.max_samples)
            && self.all_samples.load(Ordering::Relaxed) + weight <= allowed(self.max_all_samples)
    }

    fn insert(&mut self, number: u32, entity: EntityId, labels: Arc<str>) -> Result<u32, SeriesError> {
        let family = self.families[number as usize].as_mut().ok_or(SeriesError::NotFound)?;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < MAX_SLOTS => {
                self.slots.push(Slot { generation: 0, place: None });
                self.slots.len() as u32 - 1
            }
            None => return Err(SeriesError::Quota),
        };
        self.slots[slot as usize].place = Some((number, family.series.len() as u32));
        family.by_labels.insert((entity, Arc::clone(&labels)), slot);
        let value = family.zero();
        family.series.push(Series { slot, entity, labels, value });
        let weight = u64::from(family.decl.weight());
        self.samples += weight;
        self.all_samples.fetch_add(weight, Ordering::Relaxed);
        Ok(self.slots[slot as usize].generation << SLOT_BITS | slot)
    }

    fn retain(&mut self, number: u32, mut keep: impl FnMut(&Series) -> bool) {
        let Some(family) = self.families[number as usize].as_mut() else { return };
        let mut removed = 0;
        let mut index = 0;
        while index < family.series.len() {
            if keep(&family.series[index]) {
                index += 1;
                continue;
            }
            let series = family.series.swap_remove(index);
            family.by_labels.remove(&(series.entity, series.labels));
            if let Some(moved) = family.series.get(index) {
                self.slots[moved.slot as usize].place = Some((number, index as u32));
            }
            let slot = &mut self.slots[series.slot as usize];
            slot.place = None;
            slot.generation += 1;
            if slot.generation <= LAST_GENERATION {
                self.free.push(series.slot);
            }
            removed += u64::from(family.decl.weight());
        }
        self.samples -= removed;
        self.all_samples.fetch_sub(removed, Ordering::Relaxed);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.all_samples.fetch_sub(self.samples, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
enum Reserve {
    Kept,
    Used,
}
