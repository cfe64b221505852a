use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn source(block: u8, peer: u8) -> Source {
    Source { block: Block::v4([10, 0, block, 1]), peer: NodeId([peer; 32]) }
}

fn blob(number: u32) -> BlobHash {
    BlobHash::of(&number.to_le_bytes())
}

/// Pushes all of a blob; gives what went for it.
fn push(ledger: &mut Ledger, now: u64, from: Source, hash: BlobHash, length: u64) -> Result<Vec<BlobHash>, PushRefusal> {
    let now = Timestamp(now);
    let mut gone = Vec::new();
    if ledger.offer(now, from, hash, length, true, &mut gone)? == Offer::Kept {
        return Ok(Vec::new());
    }
    let mut left = length;
    let mut result = Ok(());
    while left > 0 && result.is_ok() {
        let unit = left.min(MIB);
        result = ledger.grow(now, &hash, unit, &mut gone);
        left -= unit;
    }
    ledger.rest(&hash);
    match result {
        Ok(()) => ledger.whole(&hash),
        Err(refusal) => {
            ledger.remove(&hash);
            return Err(refusal);
        }
    }
    gone.iter().for_each(|one| ledger.gone(&one.hash));
    Ok(gone.into_iter().map(|one| one.hash).collect())
}

/// Offers a blob for which nothing has to go.
fn offer(ledger: &mut Ledger, now: Timestamp, from: Source, hash: BlobHash, length: u64, told: bool) -> Result<Offer, PushRefusal> {
    let mut gone = Vec::new();
    let offered = ledger.offer(now, from, hash, length, told, &mut gone);
    assert!(gone.is_empty());
    offered
}

#[test]
fn flood_by_one_source_pushes_out_its_own_oldest() {
    let mut ledger = Ledger::new(10 * MIB);
    let (quiet, loud) = (source(1, 1), source(2, 2));
    assert_eq!(push(&mut ledger, 1, quiet, blob(0), 2 * MIB), Ok(vec![]));
    for number in 1..=100 {
        let gone = push(&mut ledger, u64::from(number) + 1, loud, blob(number), MIB).unwrap();
        // Seven fit beside the quiet one's two, with what each counts beside its bytes.
        let expected = if number > 7 { vec![blob(number - 7)] } else { vec![] };
        assert_eq!(gone, expected, "{number}");
    }
    assert!(ledger.get(&blob(0)).is_some() && ledger.total() <= 10 * MIB);
}

/// Keys cost nothing, addresses do.
#[test]
fn many_keys_of_one_block_are_one_source() {
    let mut ledger = Ledger::new(10 * MIB);
    push(&mut ledger, 1, source(1, 1), blob(0), 4 * MIB).unwrap();
    for number in 1..=200 {
        push(&mut ledger, u64::from(number) + 1, source(2, number as u8), blob(number), MIB).unwrap();
    }
    assert!(ledger.get(&blob(0)).is_some());
    // In one household the quiet peer is as safe from the loud one.
    let mut ledger = Ledger::new(10 * MIB);
    push(&mut ledger, 1, source(1, 1), blob(0), 4 * MIB).unwrap();
    for number in 1..=100 {
        push(&mut ledger, u64::from(number) + 1, source(1, 2), blob(number), MIB).unwrap();
    }
    assert!(ledger.get(&blob(0)).is_some());
}

#[test]
fn who_uses_most_makes_room_for_who_uses_least() {
    let mut ledger = Ledger::new(10 * MIB);
    for number in 0..9 {
        push(&mut ledger, u64::from(number), source(1, 1), blob(number), MIB).unwrap();
    }
    ledger.touch(Timestamp(100), &blob(0));
    let gone = push(&mut ledger, 200, source(2, 2), blob(100), 2 * MIB).unwrap();
    assert_eq!(gone, [blob(1), blob(2)], "the longest unused, and not the one that was fetched since");
}

#[test]
fn what_two_pushed_outlives_the_flood_of_one() {
    let mut ledger = Ledger::new(10 * MIB);
    push(&mut ledger, 1, source(2, 2), blob(0), MIB).unwrap();
    assert_eq!(push(&mut ledger, 2, source(1, 1), blob(0), MIB), Ok(vec![]), "it is here");
    for number in 1..=50 {
        push(&mut ledger, u64::from(number) + 2, source(2, 2), blob(number), MIB).unwrap();
    }
    assert_eq!(ledger.get(&blob(0)).unwrap().sources[..], [source(1, 1)]);
}

#[test]
fn what_can_not_be_held_is_refused_before_it_is_sent() {
    let mut ledger = Ledger::new(10 * MIB);
    assert_eq!(push(&mut ledger, 1, source(1, 1), blob(0), 10 * MIB), Err(PushRefusal::TooLarge));
    push(&mut ledger, 1, source(1, 1), blob(1), 4 * MIB).unwrap();
    assert_eq!(push(&mut ledger, 2, source(2, 2), blob(2), 8 * MIB), Err(PushRefusal::Full), "the other's four would have to go");
    assert_eq!(ledger.get(&blob(2)), None);
    push(&mut ledger, 3, source(2, 2), blob(3), 5 * MIB).unwrap();
    // Its own goes for a longer one of its own.
    assert_eq!(push(&mut ledger, 4, source(2, 2), blob(4), 5 * MIB + 5), Ok(vec![blob(3)]));
}

#[test]
fn what_is_coming_is_not_pushed_twice_and_does_not_go() {
    let mut ledger = Ledger::new(10 * MIB);
    let now = Timestamp(1);
    assert_eq!(offer(&mut ledger, now, source(1, 1), blob(1), 5 * MIB, true), Ok(Offer::Take));
    assert_eq!(offer(&mut ledger, now, source(2, 2), blob(1), 5 * MIB, true), Err(PushRefusal::Busy));
    let mut gone = Vec::new();
    ledger.grow(now, &blob(1), MIB, &mut gone).unwrap();
    for number in 2..30 {
        push(&mut ledger, u64::from(number), source(1, 1), blob(number), MIB).unwrap();
    }
    assert!(gone.is_empty() && ledger.get(&blob(1)).is_some());
    assert_eq!(ledger.rest(&blob(1)), None);
    // Another goes on with it, and is charged.
    assert_eq!(offer(&mut ledger, Timestamp(40), source(2, 2), blob(1), 5 * MIB, false), Ok(Offer::Take));
    assert_eq!(ledger.get(&blob(1)).unwrap().sources[0], source(2, 2));
    assert_eq!(ledger.used_by(&source(2, 2).block), MIB + HELD_OVERHEAD);
    ledger.rest(&blob(1));
    let late = Timestamp(40) + HELD_PART_TIME + Duration::from_secs(1);
    assert_eq!(ledger.expire(late), [Gone { hash: blob(1), whole: false }]);
}

#[test]
fn one_peer_begins_a_bounded_number_of_blobs() {
    let mut ledger = Ledger::new(1 << 40);
    for number in 0..HELD_PARTS_MAX as u32 {
        assert_eq!(offer(&mut ledger, Timestamp(1), source(1, 1), blob(number), MIB, true), Ok(Offer::Take));
        ledger.grow(Timestamp(1), &blob(number), 1, &mut Vec::new()).unwrap();
        ledger.rest(&blob(number));
    }
    assert_eq!(offer(&mut ledger, Timestamp(1), source(1, 1), blob(1000), MIB, true), Err(PushRefusal::Full));
    assert_eq!(offer(&mut ledger, Timestamp(1), source(1, 1), blob(1), MIB, true), Ok(Offer::Take), "it goes on with one");
    assert_eq!(offer(&mut ledger, Timestamp(1), source(2, 2), blob(1000), MIB, true), Ok(Offer::Take));
}

#[test]
fn smaller_quota_takes_from_who_uses_most() {
    let mut large = Ledger::new(100 * MIB);
    for number in 0..20 {
        push(&mut large, u64::from(number), source(1, 1), blob(number), MIB).unwrap();
    }
    push(&mut large, 30, source(2, 2), blob(100), MIB).unwrap();
    let mut small = Ledger::new(5 * MIB);
    large.held().for_each(|(hash, kept)| small.load(*hash, kept.clone()));
    assert_eq!(small.total(), large.total());
    assert_eq!(small.trim().len(), 17);
    assert!(small.total() <= 5 * MIB && small.get(&blob(100)).is_some());
}

/// A quota of a GiB or less is enough for the least that each counts; the larger one is, the more each does.
#[test]
fn tiny_blobs_do_not_push_out_the_large_ones_of_others() {
    for quota in [64 * MIB, 2048 * MIB] {
        let mut ledger = Ledger::new(quota);
        let most = quota / ledger.overhead();
        assert!(most <= HELD_BLOBS_MAX as u64);
        push(&mut ledger, 1, source(1, 1), blob(0), quota / 4).unwrap();
        // As small as they can be, and counted as if twice as many of them were there already.
        let tiny = u32::try_from(most / 64).unwrap();
        for number in 1..=tiny {
            push(&mut ledger, u64::from(number), source(2, number as u8), blob(number), 1).unwrap();
        }
        let counted = ledger.used_by(&source(2, 0).block);
        assert_eq!(counted, u64::from(tiny) * (ledger.overhead() + 1));
        // What is left is filled with large ones, and the flood goes on.
        for number in 0..8 {
            let _ = push(&mut ledger, 1_000_000, source(2, 2), blob(10_000_000 + number), quota / 8);
        }
        for number in 1..=tiny {
            let _ = push(&mut ledger, 2_000_000, source(2, number as u8), blob(20_000_000 + number), 1);
        }
        assert!(ledger.get(&blob(0)).is_some() && ledger.total() <= quota);
    }
}

#[test]
fn offers_without_a_byte_are_bounded_and_leave_nothing() {
    let mut ledger = Ledger::new(MIB);
    let mut taken = Vec::new();
    for number in 0..1000u32 {
        let from = source(number as u8, (number >> 8) as u8);
        match ledger.offer(Timestamp(1), from, blob(number), 0, true, &mut Vec::new()) {
            Ok(what) => {
                assert_eq!(what, Offer::Take);
                taken.push(blob(number));
            }
            Err(refusal) => assert_eq!(refusal, PushRefusal::Full),
        }
    }
    assert_eq!((taken.len() as u64, ledger.total()), (MIB / HELD_OVERHEAD, MIB));
    for hash in &taken {
        assert_eq!(ledger.rest(hash), Some(Gone { hash: *hash, whole: false }));
    }
    assert_eq!((ledger.total(), ledger.held().count()), (0, 0));
}

#[test]
fn room_is_made_though_all_of_the_greatest_is_coming() {
    let mut ledger = Ledger::new(10 * MIB);
    assert_eq!(offer(&mut ledger, Timestamp(1), source(1, 1), blob(1), 5 * MIB, true), Ok(Offer::Take));
    ledger.grow(Timestamp(1), &blob(1), 5 * MIB, &mut Vec::new()).unwrap();
    // Of the same block the next peer, and of the others the next block.
    push(&mut ledger, 2, source(1, 2), blob(2), MIB).unwrap();
    push(&mut ledger, 3, source(2, 3), blob(3), 3 * MIB).unwrap();
    assert_eq!(push(&mut ledger, 4, source(3, 4), blob(4), MIB), Ok(vec![blob(2)]));
    assert_eq!(push(&mut ledger, 5, source(4, 5), blob(5), MIB), Ok(vec![blob(3)]));
    assert!(ledger.get(&blob(1)).is_some() && ledger.get(&blob(4)).is_some());
}

/// Else it would be said to be here, and be removed after that.
#[test]
fn what_is_going_is_busy_until_it_is_gone() {
    let mut ledger = Ledger::new(10 * MIB);
    push(&mut ledger, 1, source(1, 1), blob(1), 6 * MIB).unwrap();
    assert_eq!(offer(&mut ledger, Timestamp(2), source(1, 1), blob(2), 6 * MIB, true), Ok(Offer::Take));
    let mut gone = Vec::new();
    ledger.grow(Timestamp(2), &blob(2), 6 * MIB, &mut gone).unwrap();
    assert_eq!(gone, [Gone { hash: blob(1), whole: true }]);
    assert_eq!(offer(&mut ledger, Timestamp(3), source(2, 2), blob(1), MIB, true), Err(PushRefusal::Busy));
    ledger.gone(&blob(1));
    assert_eq!(offer(&mut ledger, Timestamp(3), source(2, 2), blob(1), MIB, true), Ok(Offer::Take));
}

proptest! {
    /// However somebody floods, a source that uses no more than an equal share keeps everything; and what is counted is
    /// what is held.
    #[test]
    fn fair_share_is_never_taken(
        pushes in proptest::collection::vec((0u8..4, 0u8..3, 1u64..4 * MIB, any::<bool>()), 1..120),
    ) {
        let quota = 40 * MIB;
        let mut ledger = Ledger::new(quota);
        let mut held: BTreeMap<Block, u64> = BTreeMap::new();
        for (number, (block, peer, length, flood)) in pushes.into_iter().enumerate() {
            // The last block floods, the others stay below a quarter.
            let from = source(if flood { 3 } else { block }, peer);
            let used = held.entry(from.block).or_default();
            if from.block != source(3, 0).block {
                if *used + length + HELD_OVERHEAD > quota / 4 { continue }
                *used += length + HELD_OVERHEAD;
            }
            let _ = push(&mut ledger, number as u64, from, blob(number as u32), length);
            prop_assert!(ledger.total() <= quota);
            let counted: u64 = ledger.held().map(|(_, kept)| kept.bytes + HELD_OVERHEAD).sum();
            prop_assert_eq!(counted, ledger.total());
            for quiet in 0..3 {
                let block = source(quiet, 0).block;
                prop_assert_eq!(ledger.used_by(&block), held.get(&block).copied().unwrap_or(0));
            }
        }
    }
}
