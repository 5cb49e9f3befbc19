module vsrpc-example

go 1.21
