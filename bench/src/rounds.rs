//! Interleaved rounds and what comes out of them.

use crate::measure::Cost;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Row of the table.
    pub row: String,
    /// Column of the table.
    pub contender: String,
    /// From 0.
    pub round: usize,
    /// Turn within the round, from 0.
    pub turn: usize,
    /// Wall time.
    pub seconds: f64,
    /// Peak resident set, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_kib: Option<u64>,
}

/// A finished table.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// File name of the figures.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How it was measured, and what to know when reading it.
    pub notes: Vec<String>,
    /// Columns, in order; the first is coracle's, the others are compared with it.
    pub contenders: Vec<String>,
    /// Rows, in order.
    pub rows: Vec<String>,
    /// Every figure.
    pub samples: Vec<Sample>,
    /// Bytes of what each row is about. With them the columns are measures of one program, not programs to compare.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sizes: BTreeMap<String, u64>,
}

impl Table {
    /// Median wall time of a cell.
    pub fn median(&self, row: &str, contender: &str) -> Option<f64> {
        median(self.cell(row, contender).map(|sample| sample.seconds).collect())
    }

    /// Largest peak memory of a cell.
    pub fn peak_kib(&self, row: &str, contender: &str) -> Option<u64> {
        self.cell(row, contender).filter_map(|sample| sample.peak_kib).max()
    }

    /// Median over the rounds of one contender's time by the other's in the same round.
    pub fn ratio(&self, row: &str, one: &str, other: &str) -> Option<f64> {
        let of = |contender| -> BTreeMap<usize, f64> {
            self.cell(row, contender).map(|sample| (sample.round, sample.seconds)).collect()
        };
        let (one, other) = (of(one), of(other));
        median(one.iter().filter_map(|(round, time)| Some(time / other.get(round)?)).collect())
    }

    fn cell<'a>(&'a self, row: &'a str, contender: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.row == row && sample.contender == contender)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => values.get(middle).copied(),
        _ => Some((values.get(middle - 1)? + values.get(middle)?) / 2.0),
    }
}

/// Has every contender take its turn in every round; each turn gives figures for one or more rows.
pub fn interleave<C>(
    rounds: usize,
    contenders: &[(String, C)],
    mut turn: impl FnMut(&C) -> Result<Vec<(String, Cost)>>,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        for place in 0..contenders.len() {
            let Some((name, contender)) = contenders.get((place + round) % contenders.len()) else { continue };
            let costs = turn(contender).with_context(|| format!("measure {name}"))?;
            for (row, cost) in costs {
                eprintln!("round {} {row}, {name}: {:.3} s", round + 1, cost.seconds);
                let peak_kib = (cost.peak_kib > 0).then_some(cost.peak_kib);
                let contender = name.clone();
                samples.push(Sample { row, contender, round, turn: place, seconds: cost.seconds, peak_kib });
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rounds: usize) -> Vec<Sample> {
        let contenders = [("a".to_owned(), 1.0), ("b".to_owned(), 2.0), ("c".to_owned(), 4.0)];
        interleave(rounds, &contenders, |seconds| Ok(vec![("row".into(), Cost { seconds: *seconds, peak_kib: 7 })]))
            .unwrap()
    }

    #[test]
    fn order_rotates() {
        let order: Vec<_> = turns(3).into_iter().map(|sample| sample.contender).collect();
        assert_eq!(order, ["a", "b", "c", "b", "c", "a", "c", "a", "b"]);
    }

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
        let table = Table {
            name: String::new(),
            title: String::new(),
            notes: Vec::new(),
            contenders: Vec::new(),
            rows: Vec::new(),
            samples: turns(4),
            ..Table::default()
        };
        assert_eq!(table.median("row", "b"), Some(2.0));
        assert_eq!(table.ratio("row", "c", "b"), Some(2.0));
        assert_eq!(table.peak_kib("row", "c"), Some(7));
        assert_eq!(table.ratio("row", "c", "absent"), None);
    }
}
