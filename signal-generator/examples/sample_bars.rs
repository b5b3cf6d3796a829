//! Prints one ticker's made-up bars as CSV: how the files under `samples/` were made.
//!
//! `cargo run -p signal-generator --example sample_bars AAPL > signal-generator/samples/AAPL.csv`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use jiff::civil::date;
use signal_generator::RandomWalk;

fn main() {
    let ticker = std::env::args().nth(1).unwrap_or_else(|| "AAPL".to_owned());
    println!("date,open,high,low,close,volume");
    for bar in RandomWalk::new(12, &ticker, date(2023, 1, 2)).take(500) {
        println!("{}", bar.csv_line());
    }
}
