//! Writes the reports of two made-up evaluations, to look at pages and files:
//! `cargo run -p ipa-metrics --example evaluation -- out/made-up`

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

use ipa_metrics::evaluation::Measurements;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or("out/made-up".to_owned()));
    for (name, made_up) in [("evaluation", support::evaluation()), ("protocol", support::protocol())] {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let mut measurements = Measurements::new(made_up.settings)?;
        made_up.rows.into_iter().try_for_each(|row| measurements.add(row))?;
        made_up.skipped.into_iter().for_each(|skipped| {
            measurements.skip(skipped);
        });
        measurements.report()?.write(&folder, &made_up.pictures)?;
        println!("{}", folder.join("report.html").display());
    }
    Ok(())
}
