//! The plot: how keys became Ready, and how each figure compares with its goal.

use anyhow::anyhow;
use plotters::{coord::Shift, prelude::*};

use crate::report::{Curve, Report, Row, number};

const WIDTH: u32 = 960;
const CURVES_HEIGHT: u32 = 360;
const BAR_HEIGHT: u32 = 24;
const LABELS: u32 = 400;
/// Bars end here: twice the goal.
const MOST: f64 = 2.0;

const GOOD: RGBColor = RGBColor(0x2a, 0x7f, 0x62);
const BAD: RGBColor = RGBColor(0xb3, 0x3a, 0x3a);
const OTHER: RGBColor = RGBColor(0x8a, 0x8a, 0x8a);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn svg(report: &Report) -> anyhow::Result<String> {
    let rows: Vec<_> = report.rows.iter().filter_map(|row| Some((row, row.goal?.parts().1))).collect();
    let height = CURVES_HEIGHT + 40 + BAR_HEIGHT * u32::try_from(rows.len())?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // The errors of the backend are not Send, so only their text is kept.
        draw(&area, &report.curves, &rows).map_err(|error| anyhow!("could not draw the plot: {error}"))?;
    }
    Ok(svg)
}

fn draw(area: &Area<'_>, curves: &[Curve], rows: &[(&Row, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let (top, bottom) = area.split_vertically(CURVES_HEIGHT);
    let sizes = curves.iter().map(|curve| curve.keys).collect::<std::collections::BTreeSet<_>>();
    for (panel, keys) in top.split_evenly((1, sizes.len().max(1))).iter().zip(sizes) {
        draw_curves(panel, keys, curves.iter().filter(|curve| curve.keys == keys))?;
    }
    draw_bars(&bottom, rows)?;
    area.present()?;
    Ok(())
}

fn draw_curves<'a>(
    area: &Area<'_>,
    keys: usize,
    curves: impl Iterator<Item = &'a Curve>,
) -> Result<(), Box<dyn std::error::Error>> {
    let curves: Vec<_> = curves.collect();
    let seconds = curves.iter().flat_map(|curve| curve.points.last()).map(|(_, seconds)| *seconds).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{keys} keys: Ready after seconds"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds * 1.02, 0..keys)?;
    chart.configure_mesh().light_line_style(WHITE).draw()?;
    for curve in curves {
        let colour = if curve.who == "operator" { GOOD } else { OTHER };
        let points = std::iter::once((0.0, 0)).chain(curve.points.iter().map(|(keys, seconds)| (*seconds, *keys)));
        let line = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        line.label(curve.who).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(OTHER)
        .draw()?;
    Ok(())
}

/// One bar per figure, as a share of its goal; the line marks the goal.
fn draw_bars(area: &Area<'_>, rows: &[(&Row, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let room = f64::from(WIDTH - LABELS - 120);
    let x_of = |share: f64| (f64::from(LABELS) + share / MOST * room) as i32;
    let text = ("sans-serif", 14).into_font();
    area.draw(&Text::new("Measured, as a share of the goal (the line)", (12, 8), ("sans-serif", 18)))?;
    let first = 36;
    for (index, (row, goal)) in rows.iter().enumerate() {
        let y = first + i32::try_from(index as u32 * BAR_HEIGHT)?;
        // A goal of zero is met by zero only.
        let share = if row.value <= 0.0 { 0.0 } else { (row.value / goal).min(MOST) };
        let colour = if row.met == Some(false) { BAD } else { GOOD };
        area.draw(&Text::new(format!("{}, {} keys", row.what, row.keys), (12, y + 2), text.clone()))?;
        area.draw(&Rectangle::new([(x_of(0.0), y), (x_of(share).max(x_of(0.0) + 2), y + 16)], colour.filled()))?;
        let figure = format!("{} of {} {}", number(row.value), number(*goal), row.unit);
        area.draw(&Text::new(figure, (x_of(share.max(1.0)) + 8, y + 2), text.clone()))?;
    }
    let bottom = first + i32::try_from(rows.len() as u32 * BAR_HEIGHT)? - 4;
    area.draw(&PathElement::new([(x_of(1.0), first - 4), (x_of(1.0), bottom)], BLACK.stroke_width(1)))?;
    Ok(())
}
