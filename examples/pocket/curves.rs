//! The losses of all stages in one drawing.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use ipa_core::Checkpoint;
use plotters::prelude::*;

const STAGES: [(&str, &str, RGBColor); 5] = [
    ("vae", "autoencoder", RGBColor(0x2B, 0x62, 0xA8)),
    ("clip", "CLIP", RGBColor(0xC2, 0x5E, 0x1C)),
    ("scorer", "scoring CLIP", RGBColor(0x1E, 0x84, 0x6B)),
    ("unet", "UNet and text tower", RGBColor(0x8A, 0x4F, 0xA3)),
    ("adapter", "base adapter", RGBColor(0xA8, 0x32, 0x4A)),
];
const SIZE: (u32, u32) = (900, 420);
/// Losses of so many steps are drawn as their mean.
const SMOOTHED: usize = 25;

/// An SVG of the stages' mean losses over their steps, on a logarithmic scale; stages without a state in `folder` are
/// left out.
///
/// # Errors
/// If a state is broken, or there is none.
pub(crate) fn svg(folder: &Path) -> Result<String> {
    let mut curves = Vec::new();
    for (stage, label, color) in STAGES {
        let state = folder.join(stage).join("state.safetensors");
        if state.exists() {
            let losses = Vec::<f32>::try_from(Checkpoint::open(&state)?.tensor("losses")?)?;
            curves.push((label, color, smoothed(&losses)));
        }
    }
    ensure!(!curves.is_empty(), "no stage has left a state in {}: train one first", folder.display());
    let mut drawing = String::new();
    draw(&mut drawing, &curves).map_err(|error| anyhow!("the losses cannot be drawn: {error}"))?;
    Ok(drawing)
}

/// Means over consecutive steps, at the last of them.
fn smoothed(losses: &[f32]) -> Vec<(f64, f64)> {
    let mean = |losses: &[f32]| losses.iter().copied().map(f64::from).sum::<f64>() / losses.len() as f64;
    let parts = losses.chunks(SMOOTHED).enumerate();
    parts.map(|(index, losses)| ((index * SMOOTHED + losses.len()) as f64, mean(losses))).collect()
}

type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

fn draw(drawing: &mut String, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|(_, _, points)| points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.1).fold(low, f64::max);
    let root = SVGBackend::with_string(drawing, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..last, (low * 0.8..high * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_label_formatter(&|step| format!("{step:.0}"))
        .x_desc("step")
        .y_desc("loss")
        .draw()?;
    for (label, color, points) in curves {
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        let sample = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
        chart.draw_series(line)?.label(*label).legend(sample);
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.2)).draw()?;
    Ok(root.present()?)
}
