package config

import (
	"log/slog"
	"math"

	"amqproxy/shard"
)

// keys is the table of all that the file may say, down to the last level.
func (c *Config) keys(s *streams) fields {
	return fields{
		{"node", text(&c.Node, nodeName)},
		{"listen", text(&c.Listen, address)},
		{"broker", text(&c.Broker, broker)},
		{"broker-advertise", text(&c.BrokerAdvertise, address)},
		{"state-dir", text(&c.StateDir, nonEmpty)},
		{"gossip", checked{fields{
			{"listen", text(&c.Gossip.Listen, addressOrOff)},
			{"advertise", text(&c.Gossip.Advertise, address)},
			{"join", texts(&c.Gossip.Join, address)},
			{"secret-file", secretFile(&c.Gossip.Secret)},
			{"label", text(&c.Gossip.Label, nonEmpty)},
		}, needsListen}},
		{"admin", fields{
			{"listen", text(&c.Admin.Listen, addressOrOff)},
		}},
		{"parameters", checked{parameters(&s.global), credentials}},
		{"definitions", named{func(name string) setter {
			d := &shard.Definition{}
			s.definitions[name] = d
			return checked{definition(d), credentials}
		}}},
		{"policies", list{func() setter {
			p := newPolicy()
			s.policies = append(s.policies, p)
			return checked{p.keys(), p.keep}
		}}},
		{"loopback-users", texts(&c.LoopbackUsers, nonEmpty)},
		{"limits", fields{
			{"handshake-timeout", duration(&c.Limits.HandshakeTimeout)},
			{"write-timeout", duration(&c.Limits.WriteTimeout)},
			{"declare-timeout", duration(&c.Limits.DeclareTimeout)},
			{"shutdown-timeout", duration(&c.Limits.ShutdownTimeout)},
			{"join-timeout", duration(&c.Limits.JoinTimeout)},
			{"lost-grace", duration(&c.Limits.LostGrace)},
			{"max-connections", whole(&c.Limits.MaxConnections, 0, 1_000_000)},
			{"max-connections-per-address", whole(&c.Limits.MaxPerAddress, 0, 1_000_000)},
			{"connection-rate", whole(&c.Limits.ConnectionRate, 0, 1_000_000)},
			{"stall-timeout", duration(&c.Limits.StallTimeout)},
			{"confirm-timeout", duration(&c.Limits.ConfirmTimeout)},
			{"wait-timeout", duration(&c.Limits.WaitTimeout)},
			{"handover-timeout", duration(&c.Limits.HandoverTimeout)},
			{"link-heartbeat", seconds(&c.Limits.LinkHeartbeat)},
			{"max-links-per-session", whole(&c.Limits.LinksEach, 0, 1000)},
			{"max-links", whole(&c.Limits.MaxLinks, 0, 1_000_000)},
			{"frame-max", whole(&c.Limits.FrameMax, 4096, 1<<20)},
		}},
		{"log", fields{
			{"level", oneOf(&c.Log.Level, map[string]slog.Level{
				"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
			})},
			{"format", oneOf(&c.Log.Format, map[string]string{
				"auto": "auto", "json": "json", "console": "console",
			})},
		}},
	}
}

// parameters are the keys that stand both in a definition and at global level.
func parameters(p *shard.Parameters) fields {
	return fields{
		{"shards-per-node", whole(&p.ShardsPerNode, 1, shard.MaxShardsPerNode)},
		{"routing-key", text(&p.Weight, shard.ParseWeight)},
		{"local-username", text(&p.Local.User, nonEmpty)},
		{"local-password", password(&p.Local.Password)},
		{"local-password-file", passwordFile(&p.Local.Password)},
	}
}

func definition(d *shard.Definition) fields {
	return append(parameters(&d.Parameters), fields{
		{"hash-on", text(&d.HashOn, shard.ParseHashOn)},
		{"queue-prefix", text(&d.QueuePrefix, queuePrefix)},
		{"queue-arguments", queueArguments(&d.QueueArguments)},
		{"consume-pick", oneOf(&d.ConsumePick, map[string]shard.ConsumePick{
			"fewest": shard.PickFewest, "random": shard.PickRandom,
		})},
		{"queue-declare", oneOf(&d.QueueDeclare, map[string]shard.QueueDeclare{
			"refuse": shard.DeclareRefuse, "answer": shard.DeclareAnswer,
		})},
		{"queue-bind", oneOf(&d.QueueBind, map[string]shard.QueueBind{
			"refuse": shard.BindRefuse, "accept-own": shard.BindAcceptOwn,
		})},
		{"queue-purge", oneOf(&d.QueuePurge, setWise())},
		{"queue-delete", oneOf(&d.QueueDelete, setWise())},
		{"delivery-mode", oneOf(&d.Persist, map[string]bool{"as-sent": false, "persistent": true})},
		{"on-unavailable", oneOf(&d.OnUnavailable, map[string]shard.OnUnavailable{"spill": shard.Spill, "wait": shard.Wait, "reject": shard.Reject})},
		{"hash-among", oneOf(&d.HashLocal, map[string]bool{"all": false, "local": true})},
		{"consumers", oneOf(&d.Consumers, map[string]shard.Consumers{"local": shard.ConsumeLocal, "balanced": shard.ConsumeBalanced, "ordered": shard.ConsumeOrdered})},
		{"publish-as", text(&d.PublishAs.User, nonEmpty)},
		{"publish-password", password(&d.PublishAs.Password)},
		{"publish-password-file", passwordFile(&d.PublishAs.Password)},
		{"retry-nacked", oneOf(&d.RetryNacked, map[string]bool{"false": false, "true": true})},
	}...)
}

func setWise() map[string]shard.SetWise {
	return map[string]shard.SetWise{"refuse": shard.SetRefuse, "all": shard.SetAll}
}

func (p *policy) keys() fields {
	return fields{
		{"name", text(&p.Name, nonEmpty)},
		{"pattern", text(&p.Pattern, pattern)},
		{"vhost", text(&p.VHost, vhost)},
		{"priority", whole(&p.Priority, math.MinInt32, math.MaxInt32)},
		{"stream-definition", text(&p.Definition, nonEmpty)},
	}
}
