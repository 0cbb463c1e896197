//! Draws the counts of a sale as a plot over time.

use std::path::Path;

use plotters::prelude::*;
use testkit::Failure;

use super::{report::SaleReport, sampler::Sample};

const SIZE: (u32, u32) = (960, 540);

/// Draws the numbers of WAITING and ACTIVE tokens and of held and sold seats, and writes the SVG to `file`.
pub fn draw(file: &Path, samples: &[Sample], report: &SaleReport) -> Result<(), Failure> {
    type Count = fn(&Sample) -> f64;
    let series: [(&str, RGBColor, Count); 4] = [
        ("waiting", RGBColor(120, 120, 120), |sample| sample.stats.waiting_count as f64),
        ("active", RGBColor(40, 110, 220), |sample| sample.stats.active_count as f64),
        ("seats held", RGBColor(230, 150, 20), |sample| f64::from(sample.stats.held_seat_count)),
        ("seats sold", RGBColor(20, 150, 70), |sample| f64::from(sample.stats.sold_seat_count)),
    ];
    let end = samples.last().map_or(1.0, |sample| sample.seconds.max(1.0));
    let counts = samples.iter().flat_map(|sample| series.iter().map(move |(_, _, count)| count(sample)));
    let top = counts.fold(1.0, f64::max) * 1.05;

    // The SVG is built in memory, so that an error while drawing leaves no incomplete file.
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(report.title(), ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart
            .configure_mesh()
            .x_desc("seconds since the sale was opened")
            .disable_x_mesh()
            .max_light_lines(1)
            .x_label_formatter(&|seconds| format!("{seconds:.0}"))
            .y_label_formatter(&|count| format!("{count:.0}"))
            .draw()?;
        for (name, color, count) in series {
            let points = samples.iter().map(|sample| (sample.seconds, count(sample)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        area.present()?;
    }
    std::fs::write(file, svg)?;
    Ok(())
}
