//! The table: printed, and written as Markdown, JSON and a plot.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::{machine, plot};

/// Between these lines, docs/performance.md holds the table of the last run.
const BEGIN: &str = "<!-- the table of the last run: written by make bench -->";
const END: &str = "<!-- end of the table -->";

#[derive(Serialize)]
pub struct Report {
    /// When it was made, RFC 3339.
    date: String,
    machine: String,
    kubernetes: String,
    pub rows: Vec<Row>,
    /// How keys became Ready, in the last comparison of each size.
    pub curves: Vec<Curve>,
}

/// One figure.
#[derive(Serialize)]
pub struct Row {
    pub what: String,
    pub keys: usize,
    pub value: f64,
    pub unit: &'static str,
    /// What else is to be said about the figure.
    pub detail: String,
    /// The figure is to be no more than this.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

/// Seconds after the first create at which keys were Ready.
#[derive(Serialize)]
pub struct Curve {
    pub who: &'static str,
    pub keys: usize,
    /// Number of keys and seconds, at most a hundred points.
    pub points: Vec<(usize, f64)>,
}

impl Curve {
    /// From the seconds of all keys.
    pub fn new(who: &'static str, mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let keys = seconds.len();
        let ranks = (1..=100).map(|percent| (percent * keys).div_ceil(100)).collect::<std::collections::BTreeSet<_>>();
        let points = ranks.into_iter().map(|rank| (rank, seconds[rank - 1]));
        Self { who, keys, points: points.collect() }
    }
}

impl Row {
    /// A figure without a goal.
    pub fn new(what: impl Into<String>, keys: usize, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), keys, value, unit, detail: String::new(), goal: None, met: None }
    }

    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub fn at_most(self, goal: f64) -> Self {
        Self { goal: Some(goal), met: Some(self.value <= goal), ..self }
    }

    fn cells(&self) -> [String; 5] {
        let with_unit = |value: f64| format!("{} {}", number(value), self.unit).trim_end().to_owned();
        let detail = if self.detail.is_empty() { String::new() } else { format!(" ({})", self.detail) };
        let met = self.met.map_or("", |met| if met { "yes" } else { "**no**" });
        [
            self.what.clone(),
            self.keys.to_string(),
            format!("{}{detail}", with_unit(self.value)),
            self.goal.map(|goal| format!("≤ {}", with_unit(goal))).unwrap_or_default(),
            met.to_owned(),
        ]
    }
}

impl Report {
    pub fn new(kubernetes: String) -> Self {
        let date = chrono::Utc::now().format("%Y-%m-%dT%H:%MZ").to_string();
        Self { date, machine: machine::describe(), kubernetes, rows: Vec::new(), curves: Vec::new() }
    }

    /// The table, aligned, so that it reads well in a terminal, too.
    pub fn markdown(&self) -> String {
        let head = ["what", "keys", "measured", "goal", "met"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let widths: [usize; 5] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
        let mut text = format!("{}, {}, Kubernetes {}:\n\n", self.date, self.machine, self.kubernetes);
        for (line, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
            if line == 0 {
                text.extend(widths.map(|width| format!("|{}", "-".repeat(width + 2))));
                text.push_str("|\n");
            }
        }
        text
    }

    /// Writes target/bench/controller.{md,json,svg} and puts the table into the documentation.
    pub fn write(&self) -> anyhow::Result<()> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = repository.join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let table = self.markdown();
        write(&folder.join("controller.md"), &table)?;
        write(&folder.join("controller.json"), &format!("{}\n", serde_json::to_string_pretty(self)?))?;
        write(&folder.join("controller.svg"), &plot::svg(self)?)?;
        println!("written to {}/controller.{{md,json,svg}}", folder.display());

        let page = repository.join("docs/performance.md");
        let text = fs::read_to_string(&page).with_context(|| format!("could not read {}", page.display()))?;
        write(&page, &with_table(&text, &table).with_context(|| format!("could not update {}", page.display()))?)
    }
}

fn with_table(page: &str, table: &str) -> anyhow::Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    ensure!(parts.is_some(), "it has not both of the lines {BEGIN:?} and {END:?}");
    let (before, after) = parts.unwrap_or_default();
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Three figures, or all before the point.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => return "0".to_owned(),
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
