//! A bounded cache that many threads share: sharded, and each value is made by one thread while others wait.
//!
//! Eviction is CLOCK (second chance), which needs no list surgery on a hit. A shard's lock is never held while a value
//! is made or freed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const MAX_SHARDS: usize = 16;
/// Bytes added to each value's weight for the map, the queue and the allocations.
const OVERHEAD: usize = 128;

pub(super) struct Cache<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    shard_limit: usize,
}

struct Shard<K, V> {
    map: HashMap<K, Slot<V>>,
    /// Keys of the ready slots, each once; the hand of the clock is the front.
    clock: VecDeque<K>,
    weight: usize,
}

enum Slot<V> {
    Ready { value: Arc<V>, weight: usize, touched: bool },
    Loading(Arc<Flight<V>>),
}

/// Where waiters meet the thread that makes the value.
struct Flight<V> {
    outcome: Mutex<Outcome<V>>,
    done: Condvar,
}

enum Outcome<V> {
    Pending,
    Made(Arc<V>),
    Failed,
}

/// What a look at the cache found.
enum Found<V> {
    Value(Arc<V>),
    Wait(Arc<Flight<V>>),
    /// The caller shall make it.
    Turn(Arc<Flight<V>>),
}

impl<K: Copy + Eq + Hash, V> Cache<K, V> {
    /// A cache for values of about `typical` bytes that take at most `limit` bytes together.
    pub(super) fn new(limit: usize, typical: usize) -> Self {
        // A shard must hold several values, or collisions would make a small cache useless.
        let shards = (limit / typical.max(1) / 8).clamp(1, MAX_SHARDS);
        Self {
            shards: (0..shards)
                .map(|_| Mutex::new(Shard { map: HashMap::new(), clock: VecDeque::new(), weight: 0 }))
                .collect(),
            hasher: RandomState::new(),
            shard_limit: limit / shards,
        }
    }

    /// Bounds the values, all together, to `limit` bytes from the next one on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.shard_limit = limit / self.shards.len();
    }

    /// The value if it is there.
    pub(super) fn ready(&self, key: K) -> Option<Arc<V>> {
        match self.shard(&key).map.get_mut(&key)? {
            Slot::Ready { value, touched, .. } => {
                *touched = true;
                Some(Arc::clone(value))
            }
            Slot::Loading(_) => None,
        }
    }

    /// Drops the value if it is there.
    pub(super) fn remove(&self, key: K) {
        let mut shard = self.shard(&key);
        if let Some(Slot::Ready { .. }) = shard.map.get(&key)
            && let Some(Slot::Ready { value, weight, .. }) = shard.map.remove(&key)
        {
            shard.weight -= weight;
            shard.clock.retain(|other| *other != key);
            drop(shard);
            drop(value);
        }
    }

    /// The value if it is there, or being made by another thread.
    pub(super) fn peek(&self, key: K) -> Option<Arc<V>> {
        let flight = {
            let mut shard = self.shard(&key);
            match shard.map.get_mut(&key)? {
                Slot::Ready { value, touched, .. } => {
                    *touched = true;
                    return Some(Arc::clone(value));
                }
                Slot::Loading(flight) => Arc::clone(flight),
            }
        };
        flight.wait()
    }

    /// The value, made by `make` when it is not there; `true` when it was. `weigh` gives its bytes.
    ///
    /// When the thread that makes a value fails, only that thread sees the error; one that waited tries itself.
    pub(super) fn get<E>(
        &self,
        key: K,
        weigh: impl Fn(&V) -> usize,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<(Arc<V>, bool), E> {
        let flight = loop {
            match self.find(key) {
                Found::Value(value) => return Ok((value, true)),
                Found::Turn(flight) => break flight,
                Found::Wait(flight) => {
                    if let Some(value) = flight.wait() {
                        return Ok((value, true));
                    }
                }
            }
        };
        let turn = Turn { cache: self, key, flight: &flight };
        let value = Arc::new(make()?);
        let weight = weigh(&value).saturating_add(OVERHEAD);
        turn.finish(&value, weight);
        Ok((value, false))
    }

    fn find(&self, key: K) -> Found<V> {
        match self.shard(&key).map.entry(key) {
            Entry::Occupied(mut slot) => match slot.get_mut() {
                Slot::Ready { value, touched, .. } => {
                    *touched = true;
                    Found::Value(Arc::clone(value))
                }
                Slot::Loading(flight) => Found::Wait(Arc::clone(flight)),
            },
            Entry::Vacant(slot) => {
                let flight = Arc::new(Flight { outcome: Mutex::new(Outcome::Pending), done: Condvar::new() });
                slot.insert(Slot::Loading(Arc::clone(&flight)));
                Found::Turn(flight)
            }
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let index = (self.hasher.hash_one(key) >> 32) as usize % self.shards.len();
        lock(&self.shards[index])
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).weight).sum()
    }
}

impl<K: Copy + Eq + Hash, V> Shard<K, V> {
    /// Makes room for `weight` more bytes; the evicted values are for the caller to free after unlocking.
    fn make_room(&mut self, weight: usize, limit: usize) -> Vec<Arc<V>> {
        let mut evicted = Vec::new();
        while self.weight.saturating_add(weight) > limit {
            let Some(key) = self.clock.pop_front() else { break };
            match self.map.get_mut(&key) {
                Some(Slot::Ready { touched, .. }) if *touched => {
                    *touched = false;
                    self.clock.push_back(key);
                }
                _ => {
                    if let Some(Slot::Ready { value, weight, .. }) = self.map.remove(&key) {
                        self.weight -= weight;
                        evicted.push(value);
                    }
                }
            }
        }
        evicted
    }
}

impl<V> Flight<V> {
    fn wait(&self) -> Option<Arc<V>> {
        let mut outcome = lock(&self.outcome);
        loop {
            match &*outcome {
                Outcome::Made(value) => return Some(Arc::clone(value)),
                Outcome::Failed => return None,
                Outcome::Pending => outcome = self.done.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn settle(&self, outcome: Outcome<V>) {
        *lock(&self.outcome) = outcome;
        self.done.notify_all();
    }
}

/// The duty to make a value. Dropped without one (an error, a panic), it lets the waiters try.
struct Turn<'a, K: Copy + Eq + Hash, V> {
    cache: &'a Cache<K, V>,
    key: K,
    flight: &'a Flight<V>,
}

impl<K: Copy + Eq + Hash, V> Turn<'_, K, V> {
    fn finish(self, value: &Arc<V>, weight: usize) {
        let limit = self.cache.shard_limit;
        let mut shard = self.cache.shard(&self.key);
        let evicted = if weight <= limit {
            let evicted = shard.make_room(weight, limit);
            shard.map.insert(self.key, Slot::Ready { value: Arc::clone(value), weight, touched: false });
            shard.clock.push_back(self.key);
            shard.weight += weight;
            evicted
        } else {
            shard.map.remove(&self.key);
            Vec::new()
        };
        drop(shard);
        self.flight.settle(Outcome::Made(Arc::clone(value)));
        std::mem::forget(self);
        drop(evicted);
    }
}

impl<K: Copy + Eq + Hash, V> Drop for Turn<'_, K, V> {
    fn drop(&mut self) {
        self.cache.shard(&self.key).map.remove(&self.key);
        self.flight.settle(Outcome::Failed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these structures valid: each change is made whole under one lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn put(cache: &Cache<u32, Vec<u8>>, key: u32, len: usize) -> bool {
        cache.get(key, Vec::len, || Ok::<_, ()>(vec![0; len])).unwrap().1
    }

    #[test]
    fn one_thread_makes_a_value_and_the_others_wait() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(1 << 20, 100);
        let (made, barrier) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    let make = || {
                        std::thread::sleep(Duration::from_millis(30));
                        made.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, ()>(vec![7; 100])
                    };
                    assert_eq!(*cache.get(1, Vec::len, make).unwrap().0, vec![7; 100]);
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_failure_reaches_its_maker_alone_and_the_next_one_tries() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(1 << 20, 100);
        let (tries, barrier) = (AtomicUsize::new(0), Barrier::new(4));
        let failures = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        cache
                            .get(1, Vec::len, || {
                                std::thread::sleep(Duration::from_millis(20));
                                if tries.fetch_add(1, Ordering::SeqCst) == 0 { Err("first") } else { Ok(vec![1]) }
                            })
                            .is_err()
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|failed| *failed).count()
        });
        assert_eq!((failures, tries.into_inner()), (1, 2));
    }

    #[test]
    fn a_panic_while_making_does_not_hang_the_next_one() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(1 << 20, 100);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = cache.get(1, Vec::len, || -> Result<_, ()> { panic!("made to fail") });
        }));
        assert!(result.is_err());
        assert!(!put(&cache, 1, 10));
        assert!(put(&cache, 1, 10));
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(10_000, 10_000);
        for _ in 0..100 {
            assert!(!put(&cache, 1, 1000));
            assert!(put(&cache, 1, 1000));
            cache.remove(1);
            cache.remove(2);
        }
        assert!(cache.ready(1).is_none());
        assert_eq!(cache.weight(), 0);
        assert_eq!(lock(&cache.shards[0]).clock.len(), 0);
    }

    #[test]
    fn weight_stays_within_the_limit_and_touched_values_stay_longer() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(10_000, 10_000);
        put(&cache, 0, 1000);
        for key in 1..100 {
            assert!(put(&cache, 0, 1000), "value 0 is touched in each round and must stay");
            assert!(!put(&cache, key, 1000));
            assert!(cache.weight() <= 10_000);
        }
        assert!(cache.peek(1).is_none());
        assert!(cache.peek(99).is_some());
    }

    #[test]
    fn a_value_larger_than_the_cache_is_handed_out_and_not_kept() {
        let cache: Cache<u32, Vec<u8>> = Cache::new(100, 100);
        assert!(!put(&cache, 1, 1000));
        assert!(!put(&cache, 1, 1000));
        assert_eq!(cache.weight(), 0);
    }
}
