fn main() {
    println!("corten");
}
