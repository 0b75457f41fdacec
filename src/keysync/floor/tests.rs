//! Floors over restarts and power cuts, and how seldom they are written.

use super::*;

/// So long after the start of this boot, or of another.
fn at(passed: Duration) -> Booted {
    in_boot(1, passed)
}

fn in_boot(boot: u64, passed: Duration) -> Booted {
    let uptime = Uptime(1_000_000) + passed;
    Booted { boot, uptime }
}

const START: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
const REALM: &str = "https://a/realms/a";
const OTHER: &str = "https://a/realms/b";
/// What a clock without a battery says.
const EPOCH: Timestamp = Timestamp(0);

fn floor_in(folder: &tempfile::TempDir, now: Booted) -> Floor {
    let floor = Floor::open(&Store::open(folder.path()).unwrap(), now).unwrap();
    floor.follow(&[REALM, OTHER], now);
    floor
}

fn later(passed: Duration) -> Timestamp {
    build_time().saturating_add(passed)
}

/// The time of a client's tokens, and the latest that one more may say.
fn time_of(floor: &Floor, client: &str, now: Timestamp, at: Booted) -> (Timestamp, Timestamp) {
    let realm = &floor.realms(now, at.uptime)[REALM];
    let held = now.max(floor.get(at.uptime));
    (held.max(realm.of(client)), realm.most)
}

fn hear(floor: &Floor, client: &str, said: Timestamp, at: Booted) {
    floor.hear(REALM, client, said, EPOCH, at.uptime);
}

fn reset(floor: &Floor, to: Timestamp, at: Booted) {
    floor.reset(to, at, || Ok::<_, StoreError>(())).unwrap();
}

#[test]
fn follows_a_synchronised_clock_only_and_survives() {
    let folder = tempfile::tempdir().unwrap();
    let (start, secs) = (at(START), |secs| later(Duration::from_secs(secs)));
    let floor = floor_in(&folder, start);
    assert_eq!(floor.get(start.uptime), build_time());
    floor.advance(secs(9_999_999), false, start).unwrap();
    assert_eq!(floor.get(start.uptime), build_time());
    floor.advance(secs(1000), true, start).unwrap();
    floor.advance(secs(1100), true, start).unwrap();
    floor.advance(secs(50), true, start).unwrap();
    assert_eq!(floor.get(start.uptime), secs(1100));
    drop(floor);
    // 100 seconds weren't worth a write.
    let floor = floor_in(&folder, start);
    assert_eq!(floor.get(start.uptime), secs(1000));
    floor.advance(secs(1001), true, start).unwrap();
    floor.save(start).unwrap();
    drop(floor);
    let floor = floor_in(&folder, start);
    assert_eq!(floor.get(start.uptime), secs(1001));
    reset(&floor, Timestamp(0), start);
    assert_eq!(floor.get(start.uptime), build_time());
    drop(floor);
    assert_eq!(floor_in(&folder, start).get(start.uptime), build_time());
}

#[test]
fn what_passes_has_passed_also_while_nobody_keeps_the_clock_and_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let floor = floor_in(&folder, at(START));
    assert_eq!(floor.get(at(HOUR).uptime), later(HOUR));
    assert_eq!(floor.ran(at(HOUR).uptime), HOUR);
    floor.advance(EPOCH, false, at(HOUR)).unwrap();
    drop(floor);
    // In one boot a restart takes nothing back, whenever it was saved.
    let floor = floor_in(&folder, at(HOUR * 2));
    assert_eq!(floor.get(at(HOUR * 2).uptime), later(HOUR * 2));
    assert_eq!(floor.ran(at(HOUR * 2).uptime), HOUR * 2);
    drop(floor);
    // A power cut takes back what was saved last.
    let floor = floor_in(&folder, in_boot(2, START));
    assert_eq!(floor.get(at(START).uptime), later(HOUR));
    floor.write_along(in_boot(2, MINUTE)).unwrap();
    drop(floor);
    let floor = floor_in(&folder, in_boot(3, START));
    assert_eq!(floor.get(at(START).uptime), later(HOUR + MINUTE));
    // How long the daemon has run doesn't follow a clock.
    floor.advance(later(DAY), true, in_boot(3, START)).unwrap();
    reset(&floor, later(START), in_boot(3, START));
    assert_eq!(floor.ran(at(MINUTE).uptime), HOUR + MINUTE * 2);
}

#[test]
fn a_synchronised_clock_that_was_stepped_back_a_little_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let floor = floor_in(&folder, at(START));
    floor.advance(later(HOUR), true, at(START)).unwrap();
    for second in 1..=3 {
        let passed = Duration::from_secs(second);
        let behind = later(HOUR + passed - Duration::from_secs(2));
        floor.advance(behind, true, at(passed)).unwrap();
        let expected = later(HOUR).max(behind);
        assert_eq!(floor.get(at(passed).uptime), expected);
    }
}

#[test]
fn saves_seldom_and_never_starts_before_its_build() {
    for synchronised in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let floor = Floor::open(&store, at(START)).unwrap();
        store.sync().unwrap();
        let before = store.syncs();
        // The first save is due at once; then one in ten minutes.
        for second in 0..3600 {
            let passed = Duration::from_secs(second);
            let now = later(passed);
            floor.advance(now, synchronised, at(passed)).unwrap();
        }
        assert_eq!(store.syncs() - before, 6);
        let opened = || Floor::open(&store, at(START)).unwrap();
        // What is stored from an earlier release doesn't hold this one back, and counts.
        floor.tree.insert(KEY, &1_u64.to_be_bytes()).unwrap();
        assert_eq!(opened().get(at(START).uptime), build_time());
        let old = later(DAY).0.to_be_bytes();
        floor.tree.insert(KEY, &old).unwrap();
        assert_eq!(opened().get(at(START).uptime), later(DAY));
        // Damage counts as nothing saved.
        for damage in [&b"x"[..], &[0xff; 23], &[0xff; 16]] {
            floor.tree.insert(KEY, damage).unwrap();
            assert_eq!(opened().get(at(START).uptime), build_time());
        }
    }
}

#[test]
fn in_1970_a_token_tells_its_client_the_time_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (floor, start) = (floor_in(&folder, at(START)), at(START));
    assert_eq!(
        time_of(&floor, "one", EPOCH, start),
        (later(START), later(DAY))
    );
    hear(&floor, "one", later(DAY / 2), start);
    assert_eq!(
        time_of(&floor, "one", EPOCH, start),
        (later(DAY / 2), later(DAY))
    );
    assert_eq!(
        time_of(&floor, "two", EPOCH, start),
        (later(START), later(DAY))
    );
    let other = &floor.realms(EPOCH, start.uptime)[OTHER];
    assert_eq!((other.floor, &other.ahead), (EPOCH, &None));
    // An earlier one takes nothing back; time goes on by itself, and the budget refills.
    hear(&floor, "one", later(START), start);
    let quarter = at(DAY / 4);
    let expected = (later(DAY * 3 / 4), later(DAY * 3 / 2));
    assert_eq!(time_of(&floor, "one", EPOCH, quarter), expected);
    assert_eq!(floor.get(start.uptime), build_time());
}

#[test]
fn a_clock_that_is_ten_years_ahead_is_raised_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (floor, start) = (floor_in(&folder, at(START)), at(START));
    floor.hear(REALM, "one", later(DAY), later(TEN_YEARS), start.uptime);
    // Stepped back, it is as if it had never been.
    assert_eq!(time_of(&floor, "two", EPOCH, start).0, later(START));
    floor.advance(later(TEN_YEARS), false, start).unwrap();
    assert_eq!(floor.get(start.uptime), build_time());
}

#[test]
fn a_far_future_token_moves_its_client_by_a_day_however_often_and_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (far, start) = (later(TEN_YEARS), at(START));
    for _restart in 0..5 {
        let floor = floor_in(&folder, start);
        for _ in 0..100 {
            hear(&floor, "one", far, start);
            // Killed afterwards: a large raise is saved within a second.
            floor.advance(EPOCH, false, start).unwrap();
        }
        let all = later(DAY);
        assert_eq!(time_of(&floor, "one", EPOCH, start), (all, all));
        assert_eq!(time_of(&floor, "two", EPOCH, start), (later(START), all));
    }
    // A day later a day is there again.
    let floor = floor_in(&folder, start);
    for days in [1, 10] {
        let (_, most) = time_of(&floor, "two", EPOCH, at(DAY * days));
        assert_eq!(
            most,
            later(DAY * (days + 2)),
            "a day, and the one for all time"
        );
    }
}

#[test]
fn two_clients_agree_on_the_lower_word_over_a_power_cut_too() {
    let folder = tempfile::tempdir().unwrap();
    let (floor, start) = (floor_in(&folder, at(START)), at(START));
    hear(&floor, "one", later(HOUR * 5), start);
    hear(&floor, "two", later(HOUR * 2), start);
    let times = |floor: &Floor, now| {
        ["one", "two", "three"].map(|client| time_of(floor, client, EPOCH, now).0)
    };
    let expected = [later(HOUR * 5), later(HOUR * 2), later(HOUR * 2)];
    assert_eq!(times(&floor, start), expected);
    floor.write_along(start).unwrap();
    floor.store.sync().unwrap();
    drop(floor);
    let cut = in_boot(2, START);
    let floor = floor_in(&folder, cut);
    assert_eq!(times(&floor, cut), expected);
    // And what an earlier release stored.
    let old = format!(
        r#"{{"{REALM}":{{"floor":{},"budget_ms":7}}}}"#,
        later(HOUR).0
    );
    floor.tree.insert(REALMS_KEY, old.as_bytes()).unwrap();
    let floor = Floor::open(&floor.store, cut).unwrap();
    floor.follow(&[REALM], cut);
    assert_eq!(times(&floor, cut), [later(HOUR); 3]);
}

#[test]
fn damaged_budgets_are_spent_ones() {
    let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
    floor_in(&folder, start)
        .tree
        .insert(REALMS_KEY, b"x")
        .unwrap();
    let floor = floor_in(&folder, start);
    assert_eq!(
        time_of(&floor, "one", EPOCH, start),
        (later(START), later(START))
    );
}

#[test]
fn synchronisation_and_a_reset_end_what_tokens_said() {
    let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
    let floor = floor_in(&folder, start);
    hear(&floor, "one", later(DAY), start);
    reset(&floor, build_time(), start);
    assert_eq!(time_of(&floor, "one", EPOCH, start).0, later(START));
    let two_days = at(DAY * 2);
    for client in ["one", "two"] {
        hear(&floor, client, later(DAY * 3), two_days);
    }
    assert_eq!(time_of(&floor, "three", EPOCH, two_days).0, later(DAY * 3));
    floor.advance(later(DAY / 2), true, two_days).unwrap();
    assert_eq!(time_of(&floor, "one", EPOCH, two_days).0, later(DAY * 2));
    drop(floor);
    let floor = floor_in(&folder, two_days);
    assert_eq!(time_of(&floor, "one", EPOCH, two_days).0, later(DAY * 2));
}

#[test]
fn a_reset_also_ends_what_tokens_of_a_realm_said_that_is_not_configured_now() {
    let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
    let floor = floor_in(&folder, start);
    hear(&floor, "one", later(DAY), start);
    floor.save(start).unwrap();
    drop(floor);
    let floor = Floor::open(&Store::open(folder.path()).unwrap(), start).unwrap();
    reset(&floor, build_time(), start);
    floor.follow(&[REALM], start);
    assert_eq!(time_of(&floor, "one", EPOCH, start).0, later(START));
}

#[test]
fn realm_floors_are_written_seldom() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let floor = Floor::open(&store, at(START)).unwrap();
    floor.follow(&[REALM], at(START));
    floor.save(at(START)).unwrap();
    let before = store.syncs();
    for second in 1..=3600 {
        let passed = Duration::from_secs(second);
        // Always a bit ahead.
        hear(&floor, "one", later(passed * 2), at(passed));
        floor.advance(EPOCH, false, at(passed)).unwrap();
    }
    let writes = store.syncs() - before;
    assert!((1..=6).contains(&writes), "{writes}");
}

#[test]
fn what_is_raised_while_the_floors_are_written_is_written_the_next_time() {
    let (folder, start) = (tempfile::tempdir().unwrap(), at(START));
    let store = Store::open(folder.path()).unwrap();
    let floor = Floor::open(&store, start).unwrap();
    floor.follow(&[REALM], start);
    hear(&floor, "one", later(HOUR), start);
    std::thread::scope(|scope| {
        // Nobody else writes meanwhile, so the write has begun and can't end.
        let writer = store.write(|_| {
            let writer = scope.spawn(|| floor.write_along(start));
            while floor.writing.try_lock().is_some() {
                std::thread::yield_now();
            }
            hear(&floor, "one", later(2 * HOUR), start);
            Ok::<_, StoreError>(writer)
        });
        writer.unwrap().join().unwrap().unwrap();
    });
    store.commit(|| floor.write_along(start)).unwrap();
    drop((floor, store));
    let floor = floor_in(&folder, start);
    assert_eq!(time_of(&floor, "one", EPOCH, start).0, later(2 * HOUR));
}
