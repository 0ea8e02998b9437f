//! Drawings of a plan's results.

use std::path::Path;

use plotters::prelude::*;

use crate::outcome::Sample;
use crate::plan::Cell;
use crate::record::Row;

type Failed = Box<dyn std::error::Error>;

const SIZE: (u32, u32) = (900, 520);
const FONT: (&str, u32) = ("sans-serif", 15);

/// Goodput as a part of the rate against loss: a line for each round-trip time. The losses stand at even distances, in the
/// order of the rows. Of several rows of one point the median is drawn.
///
/// # Errors
/// The file cannot be written.
pub fn loss(path: &Path, title: &str, rows: &[&Row]) -> Result<(), Failed> {
    let losses = different(rows, |row| row.loss_percent);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let far = (losses.len().max(2) - 1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..far, 0.0..1.0)?;
    let label = |x: &f64| losses.get(x.round() as usize).map_or_else(String::new, |loss| format!("{loss}"));
    chart
        .configure_mesh()
        .x_labels(losses.len())
        .x_label_formatter(&label)
        .y_label_formatter(&|y| format!("{:.0} %", y * 100.0))
        .x_desc("random loss each way, %")
        .y_desc("goodput, part of the rate")
        .label_style(FONT)
        .draw()?;
    for (number, rtt) in different(rows, |row| row.rtt_ms).into_iter().enumerate() {
        let points: Vec<(f64, f64)> = losses
            .iter()
            .enumerate()
            .filter_map(|(x, loss)| {
                let of = |row: &&&Row| (row.rtt_ms, row.loss_percent) == (rtt, *loss);
                let mut values: Vec<f64> = rows.iter().filter(of).map(|row| row.of_rate).collect();
                values.sort_by(f64::total_cmp);
                Some((x as f64, *values.get(values.len() / 2)?))
            })
            .collect();
        let color = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(4))?
            .label(format!("{rtt} ms"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .label_font(FONT)
        .draw()?;
    root.present()?;
    Ok(())
}

/// The values that there are, in the order of the rows.
pub fn different(rows: &[&Row], value: impl Fn(&Row) -> f64) -> Vec<f64> {
    let mut values = Vec::new();
    for value in rows.iter().map(|row| value(row)) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// The course of one run: rate, window and flight, round-trip time, queue; one above the other.
///
/// # Errors
/// The file cannot be written.
pub fn course(path: &Path, cell: &Cell, samples: &[Sample]) -> Result<(), Failed> {
    // Of the first flow: the queue that is drawn.
    let way = cell.scenario.flows[0].way;
    let flows = cell.scenario.flows.len();
    let root = SVGBackend::new(path, (900, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.titled(cell.name(), ("sans-serif", 20))?.split_evenly((4, 1));
    let end = samples.last().map_or(1.0, |sample| sample.at.as_secs_f64());
    let mut rates: Vec<Vec<(f64, f64)>> = vec![Vec::new(); flows];
    for pair in samples.windows(2) {
        let span = (pair[1].at - pair[0].at).as_secs_f64();
        for (flow, line) in rates.iter_mut().enumerate() {
            let arrived = pair[1].flows[flow].arrived.saturating_sub(pair[0].flows[flow].arrived);
            line.push((pair[1].at.as_secs_f64(), arrived as f64 * 8e-6 / span));
        }
    }
    let of = |value: &dyn Fn(&Sample, usize) -> f64| -> Vec<Vec<(f64, f64)>> {
        let line = |flow| samples.iter().map(|s| (s.at.as_secs_f64(), value(s, flow))).collect();
        (0..flows).map(line).collect()
    };
    let queue: Vec<(f64, f64)> =
        samples.iter().map(|s| (s.at.as_secs_f64(), way.of(s.queue) as f64 / 1e3)).collect();
    panel(&areas[0], "arrived, Mbit/s", end, &rates)?;
    panel(&areas[1], "in flight, kB", end, &of(&|s, flow| s.flows[flow].in_flight as f64 / 1e3))?;
    panel(&areas[2], "round trip, ms", end, &of(&|s, flow| s.flows[flow].rtt.as_secs_f64() * 1e3))?;
    panel(&areas[3], "queue, kB", end, &[queue])?;
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    name: &str,
    end: f64,
    lines: &[Vec<(f64, f64)>],
) -> Result<(), Failed> {
    let top = lines.iter().flatten().map(|(_, y)| *y).fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart.configure_mesh().y_desc(name).y_labels(5).label_style(("sans-serif", 13)).draw()?;
    for (number, line) in lines.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        chart.draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(1)))?;
    }
    Ok(())
}
