//! Which ids of the host a container knows, and as which: the maps of its user namespace.

use serde::{Deserialize, Serialize};

/// Consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first, in the container.
    pub inside: u32,
    /// The first, on the host.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl Range {
    /// One id.
    #[must_use]
    pub const fn one(inside: u32, outside: u32) -> Self {
        Self { inside, outside, length: 1 }
    }

    /// Whether the host's `id` is among them.
    #[must_use]
    pub const fn covers(&self, id: u32) -> bool {
        id >= self.outside && id - self.outside < self.length
    }
}

/// The maps of a user namespace. The caller's own id is the first of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Of users.
    pub users: Vec<Range>,
    /// Of groups.
    pub groups: Vec<Range>,
}

impl Ids {
    /// The caller, as itself.
    #[must_use]
    pub fn own(uid: u32, gid: u32) -> Self {
        Self { users: vec![Range::one(uid, uid)], groups: vec![Range::one(gid, gid)] }
    }

    /// The caller, as root.
    #[must_use]
    pub fn root(uid: u32, gid: u32) -> Self {
        Self { users: vec![Range::one(0, uid)], groups: vec![Range::one(0, gid)] }
    }

    /// The caller's ids in the container.
    #[must_use]
    pub fn caller(&self) -> (u32, u32) {
        let first = |ranges: &[Range]| ranges.first().map_or(0, |range| range.inside);
        (first(&self.users), first(&self.groups))
    }

    /// Whether the caller alone is mapped.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.users.len() == 1 && self.groups.len() == 1
    }

    /// Whether a root of this container is one of many users and groups, as on a system of its own.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.users.len() > 1 && self.groups.len() > 1
    }

    /// All numbers, for telling maps apart.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let count = [self.users.len() as u64, self.groups.len() as u64];
        let parts = |range: &Range| [range.inside, range.outside, range.length].map(u64::from);
        count.into_iter().chain(self.users.iter().chain(&self.groups).flat_map(parts))
    }
}

/// Shows files of an image as owned by those who own them there, as far as there are such ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// First user and number of users that files may belong to; all others' belong to the first of all.
    pub users: Vec<(u32, u32)>,
    /// Likewise for groups.
    pub groups: Vec<(u32, u32)>,
}

impl From<&Ids> for Owners {
    fn from(ids: &Ids) -> Self {
        // An ordinary user sees all as its own; for root alone there is nobody else.
        let many = |ranges: &[Range]| {
            let many = ranges.len() > 1 && ids.caller() == (0, 0);
            if many { ranges.iter().map(|range| (range.inside, range.length)).collect() } else { Vec::new() }
        };
        Self { users: many(&ids.users), groups: many(&ids.groups) }
    }
}

impl Owners {
    /// The owner to show for what belongs to `uid`, `first` if there is no such user.
    pub(crate) fn user(&self, uid: u32, first: u32) -> u32 {
        shown(&self.users, uid, first)
    }

    /// The group to show for what belongs to `gid`, `first` if there is no such group.
    pub(crate) fn group(&self, gid: u32, first: u32) -> u32 {
        shown(&self.groups, gid, first)
    }
}

fn shown(known: &[(u32, u32)], id: u32, first: u32) -> u32 {
    let known = known.iter().any(|(start, count)| id.checked_sub(*start).is_some_and(|offset| offset < *count));
    if known { id } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_shown_as_far_as_they_are_mapped() {
        let full = Ids {
            users: vec![Range::one(0, 1000), Range { inside: 1, outside: 100_000, length: 10 }],
            groups: vec![Range::one(0, 100), Range { inside: 1, outside: 200_000, length: 50 }],
        };
        let owners = Owners::from(&full);
        assert_eq!([0, 1, 10, 11, 65534].map(|uid| owners.user(uid, 0)), [0, 1, 10, 0, 0]);
        assert_eq!([42, 50, 51].map(|gid| owners.group(gid, 0)), [42, 50, 0]);
        assert!(full.is_full() && !full.is_alone());
        assert_eq!(Owners::from(&Ids::own(7, 8)).user(0, 7), 7);
        assert_eq!(Owners::from(&Ids::root(7, 8)).user(33, 0), 0);
        let groups = Ids { groups: vec![Range::one(8, 8), Range::one(9, 9)], ..Ids::own(7, 8) };
        assert_eq!(Owners::from(&groups), Owners::default(), "an ordinary user owns all");
    }

    #[test]
    fn maps_have_different_numbers() {
        let numbers = |ids: Ids| ids.numbers().collect::<Vec<_>>();
        assert_ne!(numbers(Ids::own(7, 8)), numbers(Ids::root(7, 8)));
        assert_ne!(numbers(Ids::own(0, 0)).len(), numbers(Ids::root(0, 0)).len() + 1);
        assert!(Range { inside: 1, outside: u32::MAX, length: 9 }.covers(u32::MAX));
    }
}
