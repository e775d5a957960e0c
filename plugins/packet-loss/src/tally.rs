//! Counts the drops of one batch by entity and site, without a name, a host call or an allocation
//! per drop.

use inspector_sdk::EntityId;
use inspector_sdk::map::Map;

use crate::place::{Cause, Place, Places, Site};

/// Drops of one entity at one site.
#[derive(Debug)]
pub struct Cell {
    /// Whose they are.
    pub entity: EntityId,
    site: Site,
    /// What the site means.
    pub place: Place,
    /// All of them.
    pub drops: u64,
    /// Those shown one by one.
    pub shown: u64,
    /// The entity's budget has details left in this batch, as far as is known.
    pub details_left: bool,
}

impl Cell {
    /// The labels of these drops.
    pub fn cause(&self) -> Cause {
        self.site.cause(self.place)
    }
}

/// The counts of one batch.
#[derive(Debug, Default)]
pub struct Tally {
    cells: Vec<Cell>,
    /// Position of each cell.
    index: Map<(EntityId, Site), usize>,
    /// Position of the last one: drops come in runs.
    last: usize,
}

impl Tally {
    /// The cell of one entity and site.
    pub fn cell(&mut self, entity: EntityId, site: Site, places: &mut Places) -> &mut Cell {
        let same = self.cells.get(self.last).is_some_and(|cell| cell.entity == entity && cell.site == site);
        if !same {
            self.last = *self.index.entry((entity, site)).or_insert_with(|| {
                let place = places.of(site);
                self.cells.push(Cell { entity, site, place, drops: 0, shown: 0, details_left: true });
                self.cells.len() - 1
            });
        }
        &mut self.cells[self.last]
    }

    /// Takes the counts; the tally is empty then and keeps its memory.
    pub fn drain(&mut self) -> impl Iterator<Item = Cell> {
        self.index.clear();
        self.cells.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_runs_add_up_and_are_given_out_once() {
        let (mut tally, mut places) = (Tally::default(), Places::default());
        let site = |reason| Site { reason, location: 9, with_socket: false };
        for (entity, reason, drops) in [(1, 3, 1), (1, 3, 1), (2, 3, 1), (1, 4, 7), (1, 3, 40)] {
            tally.cell(entity, site(reason), &mut places).drops += drops;
        }
        let counts: Vec<_> = tally.drain().map(|c| (c.entity, c.cause().reason, c.drops)).collect();
        assert_eq!(counts, [(1, 3, 42), (2, 3, 1), (1, 4, 7)]);
        assert_eq!(tally.drain().count(), 0);
        assert_eq!(tally.cell(1, site(3), &mut places).drops, 0, "the next batch starts at zero");
    }
}
