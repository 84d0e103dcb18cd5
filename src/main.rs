mod host;
mod plan;
mod sys;

fn main() {}
