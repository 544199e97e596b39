// A paced load on a NATS JetStream; the figures are those of broker-load.
//
//	nats-load URL STREAM -n N -s BYTES -r RATE    acknowledged publishes over ten subjects of a stream on disk
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nats-load:", err)
		os.Exit(1)
	}
}

func main() {
	url, stream := os.Args[1], os.Args[2]
	options := flag.NewFlagSet("nats-load", flag.ExitOnError)
	count, bytes := options.Int("n", 3000, "messages"), options.Int("s", 200, "bytes of each")
	rate := options.Float64("r", 50, "messages a second")
	must(options.Parse(os.Args[3:]))

	connection, err := nats.Connect(url)
	must(err)
	js, err := jetstream.New(connection)
	must(err)
	ctx := context.Background()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{stream + ".>"}, Storage: jetstream.FileStorage})
	must(err)

	value := make([]byte, *bytes)
	for i := range value {
		value[i] = "0123456789 temp"[i%15]
	}
	took := make([]float64, 0, *count)
	begun := time.Now()
	for i := 0; i < *count; i++ {
		time.Sleep(time.Until(begun.Add(time.Duration(float64(i) / *rate * 1e9))))
		sent := time.Now()
		_, err := js.Publish(ctx, fmt.Sprintf("%s.%d", stream, i%10), value)
		must(err)
		took = append(took, time.Since(sent).Seconds()*1000)
	}
	seconds := time.Since(begun).Seconds()
	sort.Float64s(took)
	at := func(part float64) float64 { return took[int(float64(len(took)-1)*part)] }
	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"records": *count, "bytes": *count * *bytes, "seconds": seconds, "records_s": float64(*count) / seconds,
		"p50_ms": at(.5), "p99_ms": at(.99), "max_ms": at(1),
	}))
}
