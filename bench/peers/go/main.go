// A flash-sale endpoint on net/http, go-redis and golang-jwt, one EVALSHA a request.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
)

const (
	poolConnections       = 128
	bodyBytesMax          = 16 << 10
	quantityMax           = 1000
	idempotencyKeyMaxByte = 255
)

type order struct {
	CampaignID string `json:"campaign_id"`
	SkuID      string `json:"sku_id"`
	Quantity   int    `json:"quantity"`
}

type placed struct {
	OrderID string `json:"order_id"`
	Status  string `json:"status"`
}

type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
}

type shop struct {
	client *redis.Client
	buy    *redis.Script
	parser *jwt.Parser
	key    []byte
}

func (s *shop) keyFor(*jwt.Token) (any, error) { return s.key, nil }

func writeJSON(w http.ResponseWriter, status int, contentType string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func refuse(w http.ResponseWriter, status int, code string) {
	writeJSON(w, status, "application/problem+json", problem{Title: code, Status: status, Code: code})
}

func (s *shop) placeOrder(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	var claims jwt.RegisteredClaims
	if _, err := s.parser.ParseWithClaims(token, &claims, s.keyFor); err != nil || claims.Subject == "" {
		refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" || len(key) > idempotencyKeyMaxByte {
		refuse(w, http.StatusBadRequest, "KEY_MISSING")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyBytesMax))
	var wanted order
	if err != nil || json.Unmarshal(body, &wanted) != nil || wanted.Quantity < 1 || wanted.Quantity > quantityMax {
		refuse(w, http.StatusBadRequest, "INVALID")
		return
	}
	var random [16]byte
	_, _ = rand.Read(random[:])
	slot := "peer:{" + wanted.CampaignID + "}"
	reply, err := s.buy.EvalSha(
		r.Context(),
		s.client,
		[]string{slot + ":stock:" + wanted.SkuID, slot + ":order:" + claims.Subject + ":" + key, slot + ":log"},
		wanted.CampaignID+"~"+hex.EncodeToString(random[:]), claims.Subject, wanted.SkuID, wanted.Quantity,
	).Slice()
	if err != nil || len(reply) != 2 {
		refuse(w, http.StatusServiceUnavailable, "UNKNOWN")
		return
	}
	id, _ := reply[1].(string)
	if code, _ := reply[0].(int64); code == 0 {
		refuse(w, http.StatusConflict, "SOLD_OUT")
		return
	}
	w.Header().Set("Location", "/v1/orders/"+id)
	writeJSON(w, http.StatusAccepted, "application/json", placed{OrderID: id, Status: "accepted"})
}

func run() error {
	port := flag.Int("port", 0, "port on loopback")
	redisPort := flag.Int("redis-port", 0, "port of Redis on loopback")
	keyFile := flag.String("key-file", "", "file with the HS256 secret")
	audience := flag.String("audience", "", "audience of the tokens")
	scriptFile := flag.String("script", "", "the Lua script that buys")
	flag.Parse()
	key, err := os.ReadFile(*keyFile)
	if err != nil {
		return err
	}
	script, err := os.ReadFile(*scriptFile)
	if err != nil {
		return err
	}
	s := &shop{
		client: redis.NewClient(&redis.Options{
			Addr:       "127.0.0.1:" + strconv.Itoa(*redisPort),
			Protocol:   2,
			PoolSize:   poolConnections,
			MaxRetries: -1, // a script is never run twice behind our back
		}),
		buy: redis.NewScript(string(script)),
		key: []byte(strings.TrimSpace(string(key))),
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience(*audience), jwt.WithExpirationRequired(),
		),
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := s.buy.Load(ctx, s.client).Err(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/orders", s.placeOrder)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	server := &http.Server{
		Addr:              "127.0.0.1:" + strconv.Itoa(*port),
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
