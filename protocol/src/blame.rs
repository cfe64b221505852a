//! What a failure says of the job and of the builder, and how often and where the job is tried again: one rule for each
//! class of outcome (DESIGN section 7), used by verdicts, slots and the node's own rest. The book shows the same table.
//!
//! Nothing here looks at a clock or at who is present: what a failure counts is a function of the evidence.

use crate::outcome::FailureClass;
use crate::record::payload::SlotNo;

/// Slots of the next attempt begin so much higher; a Retry begins an attempt.
pub const ATTEMPT_STRIDE: u16 = 256;
/// The most attempts: their slots must stay below [`LARGER_FIRST`].
pub const ATTEMPTS_MAX: u16 = 200;
/// The most slots that one attempt may grow to as builds are wasted.
pub const ATTEMPT_SLOTS_MAX: u16 = 64;
/// How often one branch may try in one attempt what its machines spoil: a fault that passes is over by then.
pub const TRIES_MAX: usize = 3;
/// By how much more memory, disk and time a build has that follows a failure for lack of them.
pub const LARGER: u32 = 2;
/// The first of the slots for the try on a larger machine, ...
const LARGER_FIRST: u16 = 0xe000;
/// ... and how many each attempt has: one, and others where the machine spoils it.
pub const LARGER_SLOTS: u16 = 4;
/// So many times the quorum's branches that found their machines too small are not set aside by somebody's success: that is a
/// dispute. Otherwise one liar would have a job tried on every machine there is.
pub const SMALL_MANY: usize = 3;
/// Independent branches that say that they were lost at one stage of a job: it is poison. So many more for each branch
/// that has a vote on it, since a liar could otherwise keep a job alive that kills machines.
pub const POISON_SAID: usize = 2;
/// Branches that took a job, fell silent and never said a word of it: poison, too, and so many more for each branch that
/// committed to a result. More of them, since most of those who fall silent were closed, unplugged or cut off.
pub const POISON_SILENT: usize = 4;
/// The stage of a build that died with its machine: nothing says how far it had come.
pub const STAGE_UNKNOWN: &str = "build";
/// The reserved slot of builds by which a machine proves itself; no claim on it is ever valid.
pub const PROOF_SLOT: SlotNo = SlotNo(0xfe00);

/// What a failure counts against its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A vote: the quorum decides, and a success beside it makes a dispute.
    Vote,
    /// A vote, unless a success or a larger machine's word stands beside it: then it says only that the machine was too
    /// small.
    TooSmall,
    /// Nothing: the machine or the network was at fault.
    Nothing,
    /// Nothing by itself; two of independent branches at one stage make the job poison.
    Poison,
}

/// How a job is tried again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After a while, as if nobody had begun: no try is used up.
    Deferred,
    /// By others, until the quorum agrees; then only after a Retry.
    Quorum,
    /// Once with [`LARGER`] times the memory, disk and time, on a machine that lends so much.
    Larger,
    /// By others, and by the same branch up to [`TRIES_MAX`] times in all.
    Tries,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Against the job.
    pub job: Job,
    /// Whether it counts against the builder where others built the same with success, as one of the jobs after which it
    /// rests.
    pub builder: bool,
    /// How the job is tried again.
    pub again: Again,
}

/// All classes, as the table shows them.
const CLASSES: [FailureClass; 11] = [
    FailureClass::Fetch,
    FailureClass::Unpack,
    FailureClass::Build,
    FailureClass::Check,
    FailureClass::NoProgress,
    FailureClass::OutOfMemory,
    FailureClass::OutOfDisk,
    FailureClass::Timeout,
    FailureClass::Sandbox,
    FailureClass::Upload,
    FailureClass::Lost,
];

/// The rule for a class.
pub const fn rule(class: FailureClass) -> Rule {
    match class {
        FailureClass::Fetch => Rule { job: Job::Nothing, builder: false, again: Again::Deferred },
        FailureClass::Unpack | FailureClass::Build | FailureClass::Check | FailureClass::NoProgress => {
            Rule { job: Job::Vote, builder: true, again: Again::Quorum }
        }
        FailureClass::OutOfMemory | FailureClass::OutOfDisk | FailureClass::Timeout => {
            Rule { job: Job::TooSmall, builder: false, again: Again::Larger }
        }
        FailureClass::Sandbox | FailureClass::Upload => Rule { job: Job::Nothing, builder: true, again: Again::Tries },
        FailureClass::Lost => Rule { job: Job::Poison, builder: false, again: Again::Tries },
    }
}

/// The table of the book.
pub fn table() -> String {
    let mut table = String::from("| Outcome | Against the job | Against the builder | Tried again |\n|---|---|---|---|\n");
    for class in CLASSES {
        let Rule { job, builder, again } = rule(class);
        let job = match job {
            Job::Vote => "a vote; a success beside it makes a dispute".to_owned(),
            Job::TooSmall => format!("a vote; beside a success nothing, unless {SMALL_MANY} times the quorum's branches say it"),
            Job::Nothing => "nothing".to_owned(),
            Job::Poison => format!("nothing; {POISON_SAID} branches at one stage: poison"),
        };
        let builder = if builder { "where others succeed" } else { "no" };
        let again = match again {
            Again::Deferred => "later, no try used up".to_owned(),
            Again::Quorum => "until the quorum agrees".to_owned(),
            Again::Larger => format!("once with {LARGER} times the memory, disk and time"),
            Again::Tries => format!("by others; {TRIES_MAX} times by one branch"),
        };
        table += &format!("| {class} | {job} | {builder} | {again} |\n");
    }
    table
}

/// The slot for try `index` on a larger machine in the attempt that begins at slot `first`.
pub const fn larger_slot(first: u16, index: u16) -> SlotNo {
    SlotNo(LARGER_FIRST + first / ATTEMPT_STRIDE * LARGER_SLOTS + index)
}

/// Whether a slot is for the try on a larger machine.
pub const fn is_larger(slot: SlotNo) -> bool {
    slot.0 >= LARGER_FIRST && slot.0 < LARGER_FIRST + (ATTEMPTS_MAX + 1) * LARGER_SLOTS
}

/// The first slot of the attempt that a slot belongs to; an arbiter's belongs to all, so it counts as the newest.
pub const fn attempt_of(slot: SlotNo) -> u16 {
    if slot.is_arbiter() {
        u16::MAX
    } else if is_larger(slot) {
        (slot.0 - LARGER_FIRST) / LARGER_SLOTS * ATTEMPT_STRIDE
    } else {
        slot.0 / ATTEMPT_STRIDE * ATTEMPT_STRIDE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_of_a_larger_machine_belongs_to_its_attempt_and_to_no_other_kind() {
        for attempt in 0..=ATTEMPTS_MAX {
            let first = attempt * ATTEMPT_STRIDE;
            for index in 0..LARGER_SLOTS {
                let slot = larger_slot(first, index);
                assert!(is_larger(slot) && !slot.is_arbiter() && slot != PROOF_SLOT);
                assert_eq!(attempt_of(slot), first);
            }
            let last = SlotNo(first + ATTEMPT_SLOTS_MAX);
            assert!(!is_larger(last) && attempt_of(last) == first);
        }
        assert!(!is_larger(SlotNo::ARBITER) && !is_larger(PROOF_SLOT) && !PROOF_SLOT.is_arbiter());
    }

    /// The book's page is not written by hand a second time.
    #[test]
    fn book_shows_the_table_of_the_rules() {
        let page = include_str!("../../docs/src/blame.md");
        assert!(page.contains(&table()), "docs/src/blame.md should hold\n{}", table());
    }

    /// Machines' faults are never votes, and whatever can be a vote is no machine's fault.
    #[test]
    fn infrastructure_failures_never_count_against_the_job() {
        for class in CLASSES {
            let counts = matches!(rule(class).job, Job::Vote | Job::TooSmall);
            assert_eq!(class.is_infrastructure(), !counts, "{class}");
        }
    }
}
