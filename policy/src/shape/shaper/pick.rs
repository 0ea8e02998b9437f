//! Who is next, and how much it gets.

use super::tree::{Inner, Kind, LANES, ROOT, floor_step, lane_step};
use super::{Grant, JobId, LANE_SHARE, MAX_CHUNK, PIECE, Shaper};

/// By what right a node is served.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// Its floor, or that of somebody below it.
    Floor,
    /// It waits in this lane.
    Lane(usize),
}

/// One step down the tree.
#[derive(Clone, Copy, Debug)]
struct Step {
    parent: u32,
    node: u32,
    right: Right,
}

/// Gateway to tenant, tenant to user, user to job.
const STEPS: usize = 3;

impl Shaper {
    /// Grants to whoever is first. Every node in a queue can be granted something, so the way down never ends before a job.
    pub(super) fn pick(&mut self) -> Option<Grant> {
        // What the gateway's bucket says is as old as the last change below it.
        self.refresh(ROOT);
        if !self.nodes[ROOT as usize].is_shown() {
            return None;
        }
        let steps = self.descend()?;
        let job = steps[STEPS - 1].node;
        let wanted = self.nodes[job as usize].kind.leaf()?.wanted;
        let bytes = self.room(&steps, if wanted > MAX_CHUNK { PIECE } else { wanted });
        self.charge(&steps, bytes);
        Some(Grant { job: JobId(self.id(job)), bytes })
    }

    /// The way to the job that is next.
    fn descend(&self) -> Option<[Step; STEPS]> {
        let mut parent = ROOT;
        let mut floors = true;
        let mut steps = [Step { parent, node: parent, right: Right::Floor }; STEPS];
        for step in &mut steps {
            let Kind::Inner(inner) = &self.nodes[parent as usize].kind else { return None };
            // Below somebody who is served by his lane, floors have had their part already.
            let due = inner.due.waiting.first().filter(|_| floors);
            let (right, (_, node)) = match due {
                Some(first) => (Right::Floor, *first),
                None => {
                    floors = false;
                    let lane = choose_lane(inner.mask(), &inner.waited);
                    (Right::Lane(lane), *inner.lanes[lane].waiting.first()?)
                }
            };
            *step = Step { parent, node, right };
            parent = node;
        }
        Some(steps)
    }

    /// What all ceilings on the way let through at once, `bytes` at most.
    fn room(&mut self, steps: &[Step; STEPS], bytes: u64) -> u64 {
        let now = self.now;
        let nodes = steps.iter().map(|step| step.node).chain([ROOT]);
        nodes.fold(bytes, |bytes, i| match &mut self.nodes[i as usize].ceiling {
            Some(ceiling) => {
                ceiling.fill(now);
                bytes.min(ceiling.room())
            }
            None => bytes,
        })
    }

    /// Takes bytes from all on the way.
    fn charge(&mut self, steps: &[Step; STEPS], bytes: u64) {
        let now = self.now;
        for step in steps {
            let node = &mut self.nodes[step.node as usize];
            let (mut turns, mut floor_turn) = (node.turns, node.floor_turn);
            let (weight, claim) = (node.weight, node.place.claim);
            if let Some(ceiling) = &mut node.ceiling {
                ceiling.take(bytes);
            }
            if let (Right::Floor, Some(floor)) = (step.right, &mut node.floor) {
                floor.fill(now);
                floor.take(bytes);
            }
            if let Some(leaf) = node.kind.leaf_mut() {
                leaf.wanted -= bytes;
                leaf.granted = leaf.granted.saturating_add(bytes);
            }
            if let Some(inner) = self.nodes[step.parent as usize].kind.inner_mut() {
                match step.right {
                    Right::Floor => inner.due.serve(step.node, &mut floor_turn, floor_step(bytes, claim)),
                    Right::Lane(lane) => {
                        inner.note_waiting(lane, bytes);
                        inner.lanes[lane].serve(step.node, &mut turns[lane], lane_step(bytes, weight));
                    }
                }
            }
            let node = &mut self.nodes[step.node as usize];
            (node.turns, node.floor_turn) = (turns, floor_turn);
        }
        if let Some(ceiling) = &mut self.nodes[ROOT as usize].ceiling {
            ceiling.take(bytes);
        }
        for step in steps.iter().rev() {
            self.refresh(step.node);
        }
        self.refresh(ROOT);
    }
}

impl Inner {
    /// Notes that `lane` gets bytes where others wait: each lane behind the first earns its share of it.
    fn note_waiting(&mut self, lane: usize, bytes: u64) {
        let mask = self.mask();
        let first = mask.trailing_zeros() as usize;
        let bytes = bytes.cast_signed();
        for (other, waited) in self.waited.iter_mut().enumerate().skip(first + 1) {
            if mask >> other & 1 != 0 {
                *waited = (*waited + bytes).min(2 * TURN);
            }
        }
        if lane != first {
            self.waited[lane] -= bytes * LANE_SHARE.cast_signed();
        }
    }
}

/// What a lane has to earn before it is let through behind another: its share of a piece.
const TURN: i64 = (LANE_SHARE * PIECE).cast_signed();

/// The first lane of those in the mask, or one that has waited long enough behind it.
fn choose_lane(mask: u8, waited: &[i64; LANES]) -> usize {
    let first = mask.trailing_zeros() as usize;
    let behind = (first + 1..LANES).filter(|lane| mask >> lane & 1 != 0 && waited[*lane] >= TURN);
    behind.max_by_key(|lane| waited[*lane]).unwrap_or(first)
}
