/** Equal work asked for while it is under way is done once. */
export class SingleFlight<T> {
  private readonly flights = new Map<string, Promise<T>>();

  run(key: string, task: () => Promise<T>): Promise<T> {
    const flying = this.flights.get(key);
    if (flying !== undefined) {
      return flying;
    }
    const flight = task().finally(() => this.flights.delete(key));
    this.flights.set(key, flight);
    return flight;
  }
}
