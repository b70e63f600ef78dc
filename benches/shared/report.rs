//! The table: printed, and written as Markdown and JSON.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use super::machine;

/// docs/performance.md has the table of the last run between a line that names the command and this line.
const END: &str = "<!-- end of the table -->";

#[derive(Serialize)]
pub struct Report {
    /// The name of the benchmark in its file names.
    #[serde(skip)]
    name: &'static str,
    /// The command that runs the benchmark.
    #[serde(skip)]
    command: &'static str,
    /// The date of the run, RFC 3339.
    date: String,
    machine: String,
    kubernetes: String,
    pub rows: Vec<Row>,
    /// How keys became Ready, in the last comparison of each size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

/// One figure.
#[derive(Serialize)]
pub struct Row {
    pub what: String,
    pub keys: usize,
    pub value: f64,
    pub unit: &'static str,
    /// Further details of the figure.
    pub detail: String,
    pub goal: Option<Goal>,
    pub met: Option<bool>,
}

/// The goal of a figure.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// The sign and the bound.
    pub fn parts(self) -> (&'static str, f64) {
        match self {
            Goal::AtMost(bound) => ("≤", bound),
            Goal::AtLeast(bound) => ("≥", bound),
        }
    }
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
    /// A curve from the seconds of all keys.
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
        Self { goal: Some(Goal::AtMost(goal)), met: Some(self.value <= goal), ..self }
    }

    pub fn at_least(self, goal: f64) -> Self {
        Self { goal: Some(Goal::AtLeast(goal)), met: Some(self.value >= goal), ..self }
    }

    fn cells(&self) -> [String; 5] {
        let with_unit = |value: f64| format!("{} {}", number(value), self.unit).trim_end().to_owned();
        let detail = if self.detail.is_empty() { String::new() } else { format!(" ({})", self.detail) };
        let met = self.met.map_or("", |met| if met { "yes" } else { "**no**" });
        [
            self.what.clone(),
            self.keys.to_string(),
            format!("{}{detail}", with_unit(self.value)),
            self.goal.map(Goal::parts).map(|(sign, goal)| format!("{sign} {}", with_unit(goal))).unwrap_or_default(),
            met.to_owned(),
        ]
    }
}

impl Report {
    /// A report without rows.
    pub fn new(name: &'static str, command: &'static str, kubernetes: String) -> Self {
        let date = chrono::Utc::now().format("%Y-%m-%dT%H:%MZ").to_string();
        let (rows, curves) = (Vec::new(), Vec::new());
        Self { name, command, date, machine: machine::describe(), kubernetes, rows, curves }
    }

    /// The table, aligned so that it is readable in a terminal, too.
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

    /// Writes the table and the figures into target/bench, and puts the table into the documentation.
    pub fn write(&self) -> anyhow::Result<()> {
        let table = self.markdown();
        self.write_file("md", &table)?;
        self.write_file("json", &format!("{}\n", serde_json::to_string_pretty(self)?))?;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        let text = fs::read_to_string(&page).with_context(|| format!("could not read {}", page.display()))?;
        let text = self.put_into(&text, &table);
        write(&page, &text.with_context(|| format!("could not update {}", page.display()))?)
    }

    /// Writes a file of this benchmark.
    pub fn write_file(&self, extension: &str, text: &str) -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let file = folder.join(self.name).with_extension(extension);
        write(&file, text)?;
        println!("written to {}", file.display());
        Ok(())
    }

    fn put_into(&self, page: &str, table: &str) -> anyhow::Result<String> {
        let begin = format!("<!-- the table of the last run: written by {} -->", self.command);
        let parts = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) = parts.with_context(|| format!("it does not have both lines, {begin:?} and {END:?}"))?;
        Ok(format!("{before}{begin}\n\n{table}\n{END}{after}"))
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The value that this share of all values does not exceed.
pub fn percentile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// All values in order.
pub fn list(values: impl IntoIterator<Item = f64>) -> String {
    values.into_iter().map(number).collect::<Vec<_>>().join(", ")
}

/// Three significant digits, or all digits before the point.
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
