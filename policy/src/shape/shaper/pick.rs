//! Who is next, and how much it gets.

use super::tree::{Kind, LANES, ROOT, floor_step, lane_step};
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
        let (steps, chooser) = self.descend()?;
        let job = steps[STEPS - 1].node;
        let wanted = self.nodes[job as usize].kind.leaf()?.wanted;
        let bytes = self.room(&steps, if wanted > MAX_CHUNK { PIECE } else { wanted });
        let passed = match (chooser, steps[STEPS - 1].right) {
            (Some(at), Right::Lane(lane)) => self.note_waiting(at, lane, bytes),
            _ => None,
        };
        self.charge(&steps, passed, bytes);
        Some(Grant { job: JobId(self.id(job)), bytes })
    }

    /// The way to the job that is next, and the node at which its lane was chosen (`None`: it is next by its own floor).
    fn descend(&self) -> Option<([Step; STEPS], Option<u32>)> {
        let mut parent = ROOT;
        let mut lane = None;
        let mut chooser = None;
        let mut steps = [Step { parent, node: parent, right: Right::Floor }; STEPS];
        for step in &mut steps {
            let Kind::Inner(inner) = &self.nodes[parent as usize].kind else { return None };
            let due = inner.due.waiting.first().filter(|_| lane.is_none());
            let (right, (_, node)) = match due {
                Some(first) => (Right::Floor, *first),
                None => {
                    if lane.is_none() {
                        chooser = Some(parent);
                    }
                    let lane = *lane.get_or_insert_with(|| choose_lane(inner.mask(), &inner.waited));
                    (Right::Lane(lane), *inner.lanes[lane].waiting.first()?)
                }
            };
            *step = Step { parent, node, right };
            parent = node;
        }
        Some((steps, chooser))
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

    /// Notes that `lane` gets bytes at a node where others wait: each lane behind the first earns its share of it. Returns the first
    /// lane, if this is another.
    fn note_waiting(&mut self, at: u32, lane: usize, bytes: u64) -> Option<usize> {
        let inner = self.nodes[at as usize].kind.inner_mut()?;
        let mask = inner.mask();
        let first = mask.trailing_zeros() as usize;
        let bytes = bytes.cast_signed();
        for (other, waited) in inner.waited.iter_mut().enumerate().skip(first + 1) {
            if mask >> other & 1 != 0 {
                *waited = (*waited + bytes).min(2 * TURN);
            }
        }
        if lane != first {
            inner.waited[lane] -= bytes * LANE_SHARE.cast_signed();
            return Some(first);
        }
        None
    }

    /// Takes bytes from all on the way. `passed`: the lane that was passed over, in which this is to be paid for as well.
    fn charge(&mut self, steps: &[Step; STEPS], passed: Option<usize>, bytes: u64) {
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
                        let by = lane_step(bytes, weight);
                        inner.lanes[lane].serve(step.node, &mut turns[lane], by);
                        if let Some(first) = passed.filter(|first| !inner.lanes[*first].waiting.is_empty()) {
                            let most = lane_step(MOST_BURDEN, weight);
                            inner.lanes[first].burden(step.node, &mut turns[first], by, most);
                        }
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

/// What a child has to make up for at most, in a lane that was passed over for it; bytes.
const MOST_BURDEN: u64 = 16 * MAX_CHUNK;

/// What a lane has to earn before it is let through behind another: its share of a piece.
const TURN: i64 = (LANE_SHARE * PIECE).cast_signed();

/// The first lane of those in the mask, or one that has waited long enough behind it.
fn choose_lane(mask: u8, waited: &[i64; LANES]) -> usize {
    let first = mask.trailing_zeros() as usize;
    let behind = (first + 1..LANES).filter(|lane| mask >> lane & 1 != 0 && waited[*lane] >= TURN);
    behind.max_by_key(|lane| waited[*lane]).unwrap_or(first)
}
